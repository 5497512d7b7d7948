import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { createCipher, createKyselyStorage, type Database, openDatabase } from "../src/kysely/index.ts";
import { createFakeClock } from "../src/testing/index.ts";

const oldKey = "2025:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const newKey = "2026:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";
const pair = { accessToken: "access-1", refreshToken: "refresh-1" };
const longAgo = createFakeClock("2026-01-01T00:00:00Z");

let folder: string;
let databaseUrl: string;
let database: Database;
const storageWith = (keys: string) => createKyselyStorage({ ...database, cipher: createCipher({ keys }) });
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "orderbridge-cli-"));
  databaseUrl = `sqlite:${join(folder, "orders.db")}`;
  database = await openDatabase(databaseUrl);
  await createKyselyStorage(database).migrate();
});
afterEach(async () => {
  await database.close();
  rmSync(folder, { recursive: true, force: true });
});

/** [exit code, standard output, standard error] */
function run(args: readonly string[], variables: Readonly<Record<string, string>> = {}) {
  return new Promise<readonly [number | null, string, string]>((resolve) => {
    const child = execFile(
      process.execPath,
      ["--disable-warning=ExperimentalWarning", join(import.meta.dirname, "../src/cli.ts"), ...args],
      { env: { DATABASE_URL: databaseUrl, ...variables } },
      (_error, output, errors) => resolve([child.exitCode, output.trim(), errors.trim()]),
    );
  });
}

test("reencrypt stores every token under the new key, after which the old one may go", async () => {
  await storageWith(oldKey).tokens.save("amocrm", pair, undefined);
  const both = { ENCRYPTION_KEYS: `${newKey},${oldKey}` };
  expect(await run(["reencrypt"], both)).toEqual([0, "pairs of tokens encrypted anew: 1", ""]);
  expect(await run(["reencrypt"], both)).toEqual([0, "pairs of tokens encrypted anew: 0", ""]);
  expect(await storageWith(newKey).tokens.get("amocrm")).toMatchObject(pair);
});

test("reencrypt names a missing or wrong key, shows none, and changes nothing", async () => {
  await storageWith(oldKey).tokens.save("amocrm", pair, undefined);
  expect(await run(["reencrypt"])).toEqual([
    2,
    "",
    "ENCRYPTION_KEYS is missing; make a key with: openssl rand -base64 32",
  ]);
  const [code, , missing] = await run(["reencrypt"], { ENCRYPTION_KEYS: newKey });
  expect(code).toBe(2);
  expect(missing).toContain('is encrypted with the key "2025", which is not in the encryption keys');
  const [, , wrong] = await run(["reencrypt"], { ENCRYPTION_KEYS: newKey.replace("2026", "2025") });
  expect(wrong).toContain('does not open with the key "2025"');
  const [, , malformed] = await run(["reencrypt"], { ENCRYPTION_KEYS: "2026:c2hvcnQ=" });
  expect(malformed).toContain("entry 1 must be id:base64 of 32 bytes");
  expect(missing + wrong + malformed).not.toMatch(/ZmVkY2|c2hvcnQ/);
  expect(await storageWith(oldKey).tokens.get("amocrm")).toMatchObject(pair);
});

test("prune deletes what ended longer ago than the days given", async () => {
  const { outbox } = createKyselyStorage({ ...database, clock: longAgo });
  await outbox.enqueue([{ id: "order-7", topic: "webhook", key: "7", payload: "{}" }]);
  for (const message of await outbox.claim({ topic: "webhook", limit: 1, ttlMs: 1000 })) await outbox.complete(message);
  expect(await run(["prune", "--days", "9999"])).toEqual([0, "deleted messages: 0, idempotency keys: 0", ""]);
  expect(await run(["prune"])).toEqual([0, "deleted messages: 1, idempotency keys: 0", ""]);
});

test("redeliver and unblock act on what they name, and say when there is nothing", async () => {
  const { outbox, rateLimits } = createKyselyStorage(database);
  await outbox.enqueue([{ id: "order-7", topic: "webhook", key: "7", payload: "{}" }]);
  for (const message of await outbox.claim({ topic: "webhook", limit: 1, ttlMs: 1000 }))
    await outbox.bury(message, "410");
  await rateLimits.block("amocrm:shop", "403");
  expect(await run(["redeliver", "order-7"])).toEqual([0, "due at once", ""]);
  expect((await outbox.get("order-7"))?.state).toBe("pending");
  expect(await run(["unblock", "amocrm:shop"])).toEqual([0, "unblocked", ""]);
  expect((await rateLimits.status("amocrm:shop")).block).toBeUndefined();
  const nothing = [1, "there is none of that name, or nothing to do", ""];
  expect(await run(["redeliver", "order-8"])).toEqual(nothing);
  expect(await run(["unblock", "amocrm:shop"])).toEqual(nothing);
});

test.each([
  [["reencript"], "unknown command; see orderbridge --help"],
  [["redeliver"], "give the id of a message"],
  [["prune", "--days", "soon"], "--days must be a whole number of days"],
])("%j is refused in one line", async (args, message) => {
  const [code, output, errors] = await run(args);
  expect([code, output]).toEqual([2, ""]);
  expect(errors).toContain(message);
  expect(errors).not.toMatch(/\n\s+at /);
});

test("a mistyped DATABASE_URL is told, and no database is created", async () => {
  const path = join(folder, "mistyped.db");
  const [code, , errors] = await run(["prune"], { DATABASE_URL: `sqlite:${path}` });
  expect([code, errors]).toEqual([2, `there is no database file ${path}; check DATABASE_URL`]);
  expect(existsSync(path)).toBe(false);
});
