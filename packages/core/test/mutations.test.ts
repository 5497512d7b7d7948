import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { openDatabase } from "../src/kysely/index.ts";
import type { Storage } from "../src/ports.ts";
import { createFakeClock, type FakeClock, storageCases } from "../src/testing/index.ts";

const source = join(import.meta.dirname, "../src");
const work = join(import.meta.dirname, "../.tmp/mutants");
afterAll(() => rmSync(work, { recursive: true, force: true }));

interface Mutation {
  readonly file: string;
  readonly find: string;
  readonly replace: string;
  /** The cases that must turn red. */
  readonly caughtBy: readonly string[];
}

const memory = "memory/index.ts";

/** One planted defect each. */
const mutations: readonly Mutation[] = [
  {
    file: "kysely/watermarks.ts",
    find: '.where("position", "=", from)',
    replace: "",
    caughtBy: [
      "watermarks: stay when the position is another one",
      "watermarks: make a later move for one of twenty contenders",
    ],
  },
  {
    file: "kysely/leases.ts",
    find: '.where("ends_at", "<=", now())',
    replace: "",
    caughtBy: ["leases: refuse a second holder until the lease expires", "leases: refuse the same holder as well"],
  },
  {
    file: "kysely/leases.ts",
    find: '.where("ends_at", "<=", now())',
    replace: '.where("ends_at", "<", now())',
    caughtBy: ["leases: refuse a second holder until the lease expires"],
  },
  {
    file: "kysely/leases.ts",
    find: "sql<number>`fencing_token + 1`",
    replace: "sql<number>`fencing_token`",
    caughtBy: ["leases: are free at once after release, and the token still grows"],
  },
  {
    file: "kysely/leases.ts",
    find: '.where("ends_at", ">", now())',
    replace: "",
    caughtBy: ["leases: cannot be renewed once they expired, even while nobody took them"],
  },
  {
    file: "kysely/leases.ts",
    find: '.where("fencing_token", "=", lease.fencingToken)',
    replace: "",
    caughtBy: ["leases: that changed hands can be neither renewed nor released by the former holder"],
  },
  {
    file: "kysely/idempotency.ts",
    find: '.where("ends_at", "<=", now())',
    replace: "",
    caughtBy: ["idempotency: gives the stored result to everyone after the first"],
  },
  {
    file: "kysely/idempotency.ts",
    find: "if (row.fingerprint !== fingerprint)",
    replace: "if (row.result !== null && row.fingerprint !== fingerprint)",
    caughtBy: ["idempotency: refuses another fingerprint, finished or not, expired or not"],
  },
  {
    file: "kysely/idempotency.ts",
    find: '.where("token", "=", claim.token)',
    replace: "",
    caughtBy: ["idempotency: hands an abandoned execution to another caller after its life, not before"],
  },
  {
    file: "kysely/tokens.ts",
    find: '.where("version", "=", expectedVersion)',
    replace: "",
    caughtBy: [
      "tokens: are replaced at the expected version only",
      "tokens: are saved by one of twenty contenders, first and later",
    ],
  },
  {
    file: "kysely/outbox.ts",
    find: ".where(isFirstOfKey)",
    replace: "",
    caughtBy: ["outbox: hands out messages of one key one at a time, in order"],
  },
  {
    file: "kysely/outbox.ts",
    find: 'and older.${sql.id("key")} = message.${sql.id("key")}',
    replace: "",
    caughtBy: ["outbox: claims the oldest first, up to the limit, of the asked topic"],
  },
  {
    file: "kysely/outbox.ts",
    find: '.where("claim_ends_at", "<=", now())',
    replace: "",
    caughtBy: ["outbox: hands each message to one of twenty claimants"],
  },
  {
    file: "kysely/outbox.ts",
    find: '.where("claim", "=", claim)\n        .where("state"',
    replace: '.where("state"',
    caughtBy: ["outbox: hands an expired claim out again and refuses the former claimant"],
  },
  {
    file: "kysely/rate-limits.ts",
    find: ", paused_until + ${bucket - interval}",
    replace: "",
    caughtBy: ["rate limits: give no slot during a pause, and a full bucket at its end"],
  },
  {
    file: "kysely/rate-limits.ts",
    find: "drained_at: after(bucket + interval)",
    replace: "drained_at: after(interval)",
    caughtBy: ["rate limits: give twenty contenders twenty different slots, of a new account and of a known one"],
  },
  {
    file: "kysely/rate-limits.ts",
    find: "sql`${greatest}(paused_until, ${after(pauseMs)})`",
    replace: "after(pauseMs)",
    caughtBy: ["rate limits: keep the longer of two pauses"],
  },
  {
    file: "kysely/rate-limits.ts",
    find: '.where("blocked_since", "is", null)\n            .executeTakeFirst();\n          return',
    replace: ".executeTakeFirst();\n          return",
    caughtBy: ["rate limits: reserve nothing while an account is blocked, and only unblock clears it"],
  },
  {
    file: memory,
    find: "row?.fencingToken === lease.fencingToken && ",
    replace: "row !== undefined && ",
    caughtBy: ["leases: that changed hands can be neither renewed nor released by the former holder"],
  },
  {
    file: memory,
    find: "row.claim !== message.claim",
    replace: "false",
    caughtBy: ["outbox: hands an expired claim out again and refuses the former claimant"],
  },
  {
    file: memory,
    find: "Math.ceil(intervalMs)",
    replace: "Math.floor(intervalMs)",
    caughtBy: ["rate limits: round a part of a millisecond to the slower side"],
  },
  {
    file: "stored-text.ts",
    find: "characters > maxKeyCharacters",
    replace: "false",
    caughtBy: ["leases: take the longest name and refuse what cannot be stored"],
  },
];

test.each(mutations.map((mutation, index) => ({ index, ...mutation })))(
  "$file without « $find » is caught",
  async ({ index, file, find, replace, caughtBy }) => {
    const folder = join(work, String(index));
    cpSync(source, folder, { recursive: true });
    const text = readFileSync(join(folder, file), "utf8");
    expect(text).toContain(find);
    writeFileSync(join(folder, file), text.replaceAll(find, replace));

    const isMemory = file === memory;
    const mutant = await import(join(folder, isMemory ? memory : "kysely/index.ts"));
    const failed: string[] = [];
    for (const { name, run } of storageCases) {
      if (!caughtBy.includes(name)) continue;
      const clock = createFakeClock();
      const { storage, close } = await open(mutant, isMemory, clock);
      await run({ storage, clock }).catch(() => failed.push(name));
      await close();
    }
    expect(failed.sort()).toEqual([...caughtBy].sort());
  },
);

async function open(
  mutant: {
    createMemoryStorage(options: { clock: FakeClock }): Storage;
    createKyselyStorage(options: object): Storage & { migrate(): Promise<void> };
  },
  isMemory: boolean,
  clock: FakeClock,
): Promise<{ readonly storage: Storage; close(): Promise<void> }> {
  if (isMemory) return { storage: mutant.createMemoryStorage({ clock }), close: async () => undefined };
  const database = await openDatabase("sqlite::memory:");
  const storage = mutant.createKyselyStorage({ ...database, clock });
  await storage.migrate();
  return { storage, close: database.close };
}
