// pnpm mutants [text]: plants defects into the code that claims, leases, limits and verifies, one at a time, and sees
// that a named case turns red for each. A defect that no test notices fails the run.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");

interface Mutant {
  /** Below `packages/core/src`. */
  readonly file: string;
  readonly from: string;
  readonly to: string;
  /** Below `packages/core/test`. */
  readonly tests: string;
  /** Part of the name of the case that must notice. */
  readonly caughtBy: string;
}

const conformance = "conformance.test.ts";
export const mutants: readonly Mutant[] = [
  // leases
  {
    file: "kysely/leases.ts",
    from: '.where("ends_at", "<=", now())',
    to: "",
    tests: conformance,
    caughtBy: "leases: refuse a second holder until the lease expires",
  },
  {
    file: "kysely/leases.ts",
    from: "fencing_token + 1`",
    to: "fencing_token`",
    tests: conformance,
    caughtBy: "leases: are free at once after release, and the token still grows",
  },
  {
    file: "kysely/leases.ts",
    from: 'ttl_ms: ttl(ttlMs) })\n          .where("name", "=", lease.name)\n          .where("fencing_token", "=", lease.fencingToken)',
    to: 'ttl_ms: ttl(ttlMs) })\n          .where("name", "=", lease.name)',
    tests: conformance,
    caughtBy: "leases: that changed hands can be neither renewed nor released by the former holder",
  },
  {
    file: "kysely/leases.ts",
    from: '.where("ends_at", ">", now())\n          .executeTakeFirst()',
    to: ".executeTakeFirst()",
    tests: conformance,
    caughtBy: "leases: cannot be renewed once they expired, even while nobody took them",
  },
  {
    file: "kysely/leases.ts",
    from: ".set({ ends_at: sql<number>`${now()} + ttl_ms` })",
    to: ".set({ ends_at: sql<number>`ends_at` })",
    tests: conformance,
    caughtBy: "leases: keep others out for no longer than a whole life after the clock was set back by a year",
  },
  {
    file: "kysely/leases.ts",
    from: ".set({ ends_at: sql<number>`${now()} + ttl_ms` })",
    to: ".set({ ends_at: 0 })",
    tests: conformance,
    caughtBy: "leases: keep others out for no longer than a whole life after the clock was set back by a year",
  },
  {
    file: "memory/index.ts",
    from: "const fencingToken = (row?.fencingToken ?? 0) + 1;",
    to: "const fencingToken = 1;",
    tests: conformance,
    caughtBy: "leases: are free at once after release, and the token still grows",
  },
  {
    file: "jobs/with-lease.ts",
    from: "(ttlMs * 2) / 3 - clock",
    to: "ttlMs * 2 - clock",
    tests: "with-lease.test.ts",
    caughtBy: "stops the work at two thirds of the lease's life when the store does not answer",
  },
  // claims
  {
    file: "kysely/idempotency.ts",
    from: '.where("ends_at", "<=", now())',
    to: "",
    tests: conformance,
    caughtBy: "idempotency: hands an abandoned execution to another caller after its life, not before",
  },
  {
    file: "kysely/idempotency.ts",
    from: 'if (row.fingerprint !== fingerprint) return { state: "mismatch" };',
    to: "",
    tests: conformance,
    caughtBy: "idempotency: refuses another fingerprint, finished or not, expired or not",
  },
  {
    file: "kysely/idempotency.ts",
    from: '.set({ result })\n          .where("scope", "=", claim.scope)\n          .where("key", "=", claim.key)\n          .where("token", "=", claim.token)\n          .where("result", "is", null)',
    to: '.set({ result })\n          .where("scope", "=", claim.scope)\n          .where("key", "=", claim.key)\n          .where("token", "=", claim.token)',
    tests: conformance,
    caughtBy: "idempotency: stores the first result only",
  },
  {
    file: "kysely/outbox.ts",
    from: "older.position < message.position",
    to: "older.position < 0",
    tests: conformance,
    caughtBy: "outbox: hands out messages of one key one at a time, in order",
  },
  {
    file: "kysely/outbox.ts",
    from: "!Number(is_first)",
    to: "false",
    tests: "storage.test.ts",
    caughtBy: "a message is not handed out when an older one of its key was made due while it was claimed",
  },
  {
    file: "kysely/outbox.ts",
    from: '.where("message.claim_ends_at", "<=", now())',
    to: "",
    tests: conformance,
    caughtBy: "outbox: claims the oldest first, up to the limit, of the asked topic",
  },
  {
    file: "kysely/outbox.ts",
    from: "due.place + ${onTheWay} <=",
    to: "due.place <=",
    tests: conformance,
    caughtBy: "outbox: passes over messages whose destination has enough claimed ones",
  },
  {
    file: "kysely/outbox.ts",
    from: '.where("due_at", "<=", now())\n            .where("claim_ends_at", "<=", now())',
    to: '.where("due_at", "<=", now())',
    tests: conformance,
    caughtBy: "outbox: hands each message to one of twenty claimants",
  },
  {
    file: "kysely/outbox.ts",
    from: '.where("claim", "=", claim)\n        .where("state"',
    to: '.where("state"',
    tests: conformance,
    caughtBy: "outbox: hands an expired claim out again and refuses the former claimant",
  },
  {
    file: "kysely/outbox.ts",
    from: "attempts: sql`attempts + 1`",
    to: "attempts: sql`attempts`",
    tests: conformance,
    caughtBy: "outbox: hands a message out again after the delay of a retry",
  },
  {
    file: "kysely/watermarks.ts",
    from: '.where("position", "=", from)',
    to: "",
    tests: conformance,
    caughtBy: "watermarks:",
  },
  {
    file: "kysely/tokens.ts",
    from: '.where("version", "=", expectedVersion)',
    to: "",
    tests: conformance,
    caughtBy: "tokens:",
  },
  {
    file: "oauth/token-keeper.ts",
    from: "const stored = await read();\n    if (stored.accessToken !== refused.accessToken) return stored;\n    const { refreshToken }",
    to: "const stored = await read();\n    const { refreshToken }",
    tests: "token-keeper.test.ts",
    caughtBy: "looks again inside the lease",
  },
  // limits
  {
    file: "kysely/rate-limits.ts",
    from: "coalesce(${drainedAt()}, ${after(bucket)})",
    to: "coalesce(${drainedAt()}, 0)",
    tests: conformance,
    caughtBy: "rate limits: start with a full bucket after a pause of an account that was never seen",
  },
  {
    file: "kysely/rate-limits.ts",
    from: ", ${pausedUntil()} + ${bucket - interval})",
    to: ")",
    tests: conformance,
    caughtBy: "rate limits: give no slot during a pause, and a full bucket at its end",
  },
  {
    file: "kysely/rate-limits.ts",
    from: '.where("account", "=", account)\n            .where("blocked_since", "is", null)\n            .executeTakeFirst();\n          const row',
    to: '.where("account", "=", account)\n            .executeTakeFirst();\n          const row',
    tests: conformance,
    caughtBy: "rate limits: reserve nothing while an account is blocked, and only unblock clears it",
  },
  {
    file: "kysely/rate-limits.ts",
    from: "then written_at - ${now()} else",
    to: "then 0 else",
    tests: conformance,
    caughtBy: "rate limits: keep slots and pauses as far ahead as they were when the clock was set back by a year",
  },
  {
    file: "kysely/rate-limits.ts",
    from: "Promise<void> =>\n    transaction(",
    to: "Promise<void> =>\n    run(",
    tests: "rate-limiter.test.ts",
    caughtBy: "a shorter pause that waited for its turn leaves a longer one as it is",
  },
  {
    file: "kysely/rate-limits.ts",
    from: "drained_at: null, paused_until: 0 }",
    to: "drained_at: null }",
    tests: conformance,
    caughtBy: "rate limits: end a pause when a person unblocks, with a full bucket after it",
  },
  {
    file: "redis/scripts.ts",
    from: "drainedAt = drainedAt and drainedAt - setBack",
    to: "",
    tests: "redis.test.ts",
    caughtBy: "rate limits: keep slots and pauses as far ahead as they were when the clock was set back by a year",
  },
  {
    file: "http/rate-limiter.ts",
    from: "isVoid || (pauseMs <= 0 && now < pauseEndsAt - spacedLagMs)",
    to: "isVoid",
    tests: "rate-limiter.test.ts",
    caughtBy: "goes on within half a minute after a person ended it",
  },
  {
    file: "http/rate-limiter.ts",
    from: "if (block) throw blocked(block);\n      if (pauseMs",
    to: "if (pauseMs",
    tests: "rate-limiter.test.ts",
    caughtBy: "a block stops who already waits and who comes later, in every process",
  },
  {
    file: "http/rate-limiter.ts",
    from: "if (pauseMs <= 0 && !isVoid && !isLate) return;",
    to: "return;",
    tests: "rate-limiter.test.ts",
    caughtBy: "a pause reaches who already waits",
  },
  {
    file: "http/rate-limiter.ts",
    from: "if (pauseMs <= 0 && !isVoid && !isLate) return;",
    to: "if (pauseMs <= 0 && !isLate) return;",
    tests: "redis.test.ts",
    caughtBy: "processes that slept while Redis was emptied take new slots",
  },
  {
    file: "http/rate-limiter.ts",
    from: "if (pauseMs <= 0 && !isVoid && !isLate) return;",
    to: "if (pauseMs > 0) await clock.sleep(pauseMs, signal);\n      return;",
    tests: "rate-limiter.test.ts",
    caughtBy: "processes that slept into a pause leave one by one at its end",
  },
  {
    file: "redis/index.ts",
    from: "generation === slot.generation ? status : { ...status, isVoid: true }",
    to: "status",
    tests: "redis.test.ts",
    caughtBy: "makes void what it handed out before it was emptied, also where nobody has asked since",
  },
  {
    file: "redis/index.ts",
    from: "await durable.penalize(account, pauseMs);",
    to: "",
    tests: "redis.test.ts",
    caughtBy: "keeps pause and block when Redis was emptied",
  },
  {
    file: "redis/index.ts",
    from: 'if (block) return { state: "blocked", block };',
    to: "",
    tests: "redis.test.ts",
    caughtBy: "rate limits: reserve nothing while an account is blocked, and only unblock clears it",
  },
  {
    file: "redis/scripts.ts",
    from: "drainedAt, generation = now + bucket, ARGV[5]",
    to: "drainedAt, generation = 0, ARGV[5]",
    tests: "redis.test.ts",
    caughtBy: "starts an account with a full bucket when Redis was emptied",
  },
  {
    file: "redis/scripts.ts",
    from: "if not drainedAt or row[4] ~= server then",
    to: "if not drainedAt then",
    tests: "redis.test.ts",
    caughtBy: "does not believe an old snapshot that the server came back with",
  },
  {
    file: "redis/scripts.ts",
    from: ", pausedUntil + bucket - interval)",
    to: ")",
    tests: "redis.test.ts",
    caughtBy: "rate limits: give no slot during a pause, and a full bucket at its end",
  },
  {
    file: "bullmq/index.ts",
    from: "engine.runDue(name, signal).finally",
    to: "engine.runNow(name, signal).then(() => 0).finally",
    tests: "bullmq.test.ts",
    caughtBy: "keeps the pace of every job over three processes, and gives each of them work",
  },
  {
    file: "bullmq/index.ts",
    from: "if (!names.has(entry.name)) return;",
    to: "",
    tests: "bullmq.test.ts",
    caughtBy: "drops entries of jobs that no longer exist",
  },
  {
    file: "bullmq/index.ts",
    from: "for (const { name } of jobs) void turn(name);",
    to: "",
    tests: "bullmq.test.ts",
    caughtBy: "looks for due jobs itself while Redis is down, and shares them again afterwards",
  },
  {
    file: "bullmq/index.ts",
    from: "await Promise.allSettled(waiting.map((entry) => entry.promote()));",
    to: "",
    tests: "bullmq.test.ts",
    caughtBy: "takes over an interval that became shorter",
  },
  {
    file: "http/client.ts",
    from: "await takeSlot(call.signal);",
    to: "if (!mayHaveRun) await takeSlot(call.signal);",
    tests: "http-client.test.ts",
    caughtBy: "gives each attempt its own slot",
  },
  {
    file: "http/client.ts",
    from: 'safe !== false && (failure.outcome === "unknown" || isUnreadable(failure))',
    to: 'failure.outcome === "unknown" || (safe !== false && isUnreadable(failure))',
    tests: "http-client.test.ts",
    caughtBy: "does not repeat a write whose answer never came",
  },
  {
    file: "http/client.ts",
    from: 'safe !== false && (failure.outcome === "unknown" || isUnreadable(failure))',
    to: '(safe !== false && failure.outcome === "unknown") || isUnreadable(failure)',
    tests: "http-client.test.ts",
    caughtBy: "repeats a read that was answered 200 with half an answer, and never a write",
  },
  {
    file: "http/client.ts",
    from: 'redirect: "manual"',
    to: 'redirect: "follow"',
    tests: "http-client.test.ts",
    caughtBy: "redirect",
  },
  {
    file: "http/client.ts",
    from: 'isOpen && safe !== "read" && SdkError.isInstance(error) ? leftOpen(error) : error',
    to: "error",
    tests: "http-client.test.ts",
    caughtBy: "after an attempt that may have run, a refusal",
  },
  {
    file: "http/client.ts",
    from: ' || failure.outcome === "executed"',
    to: "",
    tests: "http-client.test.ts",
    caughtBy: "after an attempt that ran, and whose answer broke off, a refusal",
  },
  {
    file: "http/client.ts",
    from: "Math.min(asked, maxPauseMs)",
    to: "asked",
    tests: "http-client.test.ts",
    caughtBy: "pauses for an hour at most",
  },
  {
    file: "http/client.ts",
    from: "answer.status === 204 || answer.status === 205",
    to: 'answer.text === ""',
    tests: "http-client.test.ts",
    caughtBy: "repeats a read that was answered 200 with nothing",
  },
  {
    file: "oauth/token-keeper.ts",
    from: "if (clock.monotonicMs() < ahead.againAtMs) return stored;",
    to: "",
    tests: "token-keeper.test.ts",
    caughtBy: "calls with a token that works do not each ask for another one",
  },
  // what strangers send
  {
    file: "http/redact.ts",
    from: "const maxLength = 2000;",
    to: "const maxLength = 100_000;",
    tests: "redact.test.ts",
    caughtBy: "takes no time over a megabyte",
  },
  {
    file: "node/client-address.ts",
    from: "noted.startsWith(proof()) ? noted.slice(proof().length) : undefined",
    to: 'noted.split(" ").at(-1) || undefined',
    tests: "client-address.test.ts",
    caughtBy: "believes no address that stands in a request",
  },
  {
    file: "node/client-address.ts",
    from: "if (address === undefined) headers.delete(headerName);\n  else headers",
    to: "if (address !== undefined) headers",
    tests: "client-address.test.ts",
    caughtBy: "an address that was noted does not outlive",
  },
  {
    file: "node/client-address.ts",
    from: "address !== undefined && trusted.has(address) && forwarded.length > 0",
    to: "address !== undefined && forwarded.length > 0",
    tests: "client-address.test.ts",
    caughtBy: "gives the socket's address without a proxy",
  },
  {
    file: "node/index.ts",
    from: 'if (target.startsWith("/")) return new URL(origin + target);',
    to: "",
    tests: "handlers.test.ts",
    caughtBy: "the path of a request target //x/admin",
  },
  // signatures
  {
    file: "signature/index.ts",
    from: 'if (ageMs > toleranceMs) return no("too_old");',
    to: "",
    tests: "signature.test.ts",
    caughtBy: "refuses one second beyond the tolerance, back",
  },
  {
    file: "signature/index.ts",
    from: 'if (-ageMs > toleranceMs) return no("too_new");',
    to: "",
    tests: "signature.test.ts",
    caughtBy: "refuses one second beyond the tolerance, ahead",
  },
  {
    file: "signature/index.ts",
    from: "/[\\s.]/.test(id) || !/^",
    to: "!/^",
    tests: "signature.test.ts",
    caughtBy: "refuses an id with a full stop",
  },
  {
    file: "signature/index.ts",
    from: "/^[1-9]\\d{0,11}$/",
    to: "/^\\d{1,12}/",
    tests: "signature.test.ts",
    caughtBy: "refuses a timestamp with letters behind",
  },
  {
    file: "signature/index.ts",
    from: "joined.write(received, end) === end &&",
    to: "joined.write(received, end) >= end &&",
    tests: "signature.test.ts",
    caughtBy: "refuses characters behind a right digest",
  },
  {
    file: "signature/index.ts",
    from: "matched = sameText(expected, part) || matched;",
    to: "matched = sameText(expected, part);",
    tests: "signature.test.ts",
    caughtBy: "during a rotation either secret verifies",
  },
  {
    file: "signature/index.ts",
    from: "id == null && time == null && signatures == null && bodySignature",
    to: "bodySignature",
    tests: "signature.test.ts",
    caughtBy: "any standard header, alone, keeps the older header from counting",
  },
  {
    file: "signature/index.ts",
    from: 'matched = sameText(hash("sha256", secret), digest) || matched;',
    to: 'matched = sameText(hash("sha256", secret), digest);',
    tests: "signature.test.ts",
    caughtBy: "shared secrets: any of several fits, an empty one never does",
  },
  {
    file: "signature/index.ts",
    from: "key.length > 64 ?",
    to: "key.length >= 64 ?",
    tests: "signature.test.ts",
    caughtBy: "webhook: secrets around the block size of the hash sign as other tools sign",
  },
  {
    file: "signature/index.ts",
    from: "if (end > 4000)",
    to: "if (end > 4096)",
    tests: "signature.test.ts",
    caughtBy: "signs the whole of an id of 4030 bytes, whatever its letters take",
  },
];

interface Report {
  readonly testResults: readonly {
    readonly assertionResults: readonly { readonly fullName: string; readonly status: string }[];
  }[];
}

/** The names of the tests that fail with a defect in place. */
async function failuresWith(mutant: Mutant, index: number): Promise<readonly string[]> {
  const output = join(root, ".tmp", `mutant-${index}.json`);
  rmSync(output, { force: true }); // a vitest that dies must not be judged by the report of a former run
  await new Promise((resolve, reject) => {
    const child = spawn(
      process.execPath,
      [
        join(root, "node_modules/vitest/vitest.mjs"),
        "run",
        `packages/core/test/${mutant.tests}`,
        "--reporter=json",
        `--outputFile.json=${output}`,
      ],
      {
        cwd: root,
        stdio: "ignore",
        env: {
          ...process.env,
          ORDERBRIDGE_MUTANT: JSON.stringify({ ...mutant, file: `packages/core/src/${mutant.file}` }),
        },
      },
    );
    child.once("error", reject);
    child.once("close", resolve);
  });
  if (!existsSync(output)) return []; // vitest died: nobody noticed the defect
  const { testResults } = JSON.parse(readFileSync(output, "utf8")) as Report;
  return testResults.flatMap(({ assertionResults }) =>
    assertionResults.filter(({ status }) => status === "failed").map(({ fullName }) => fullName),
  );
}

async function plantAll(wanted: string): Promise<void> {
  mkdirSync(join(root, ".tmp"), { recursive: true });
  let missed = 0;
  let count = 0;
  for (const [index, mutant] of mutants.entries()) {
    if (!`${mutant.file} ${mutant.caughtBy}`.includes(wanted)) continue;
    count++;
    const source = readFileSync(join(root, "packages/core/src", mutant.file), "utf8");
    if (source.split(mutant.from).length !== 2) {
      missed++;
      process.stdout.write(
        `LOST ${mutant.file}: its place is not there, or not unique: ${mutant.from.split("\n", 1)[0]}\n`,
      );
      continue;
    }
    const failures = await failuresWith(mutant, index);
    const caught = failures.some((name) => name.includes(mutant.caughtBy));
    if (!caught) missed++;
    const others = new Set(
      failures.map((name) => name.replace(/^\S+ /, "")).filter((name) => !name.includes(mutant.caughtBy)),
    );
    process.stdout.write(
      `${caught ? "ok  " : "MISS"} ${mutant.file}: ${mutant.caughtBy}${others.size > 0 ? ` (+${others.size} other cases)` : ""}\n`,
    );
  }
  process.stdout.write(`${count - missed} passed, ${missed} failed\n`);
  process.exitCode = missed > 0 ? 1 : 0;
}

if (import.meta.main) await plantAll(process.argv[2] ?? "");
