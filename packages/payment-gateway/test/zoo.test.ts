import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { AnimalName, ZooTally } from "./zoo.worker.ts";
import { patientDeadlineMs, type Visit, type VisitReport } from "./zoo-visit.ts";

const isProof = process.env.PROOF === "1";
const tries = isProof ? 200 : 16;
/** Time enough for the head of an answer, also when all tries begin at once on a busy machine. */
const silentDeadlineMs = isProof ? 2_000 : 400;
const megabyte = 1_048_576;

/** Those who say nothing that ends a try: the deadline does. */
const silent: readonly (readonly [AnimalName, string])[] = [
  ["neverAnswers", "timeout"],
  ["neverReads", "timeout"],
  ["dripsItsHead", "timeout"],
  ["dripsHeaders", "timeout"],
  ["dripsItsBody", "http_200"],
  ["acceptsAndIsSilent", "timeout"],
  ["dripsItsHandshake", "timeout"],
];
/** Those whom the gateway leaves as soon as it has seen enough, long before the deadline. */
const loud: readonly (readonly [AnimalName, string])[] = [
  ["sendsTenGigabytes", "http_200"],
  ["neverStops", "http_200"],
  ["sendsGzipBomb", "http_200"],
  ["sendsHeadersWithoutEnd", "no_answer"],
  ["sendsHeaderWithoutEnd", "no_answer"],
  ["sendsHeaderNameWithoutEnd", "no_answer"],
  ["sendsReasonWithoutEnd", "no_answer"],
  ["sendsHintsWithoutEnd", "no_answer"],
  ["saysContinueWithoutEnd", "no_answer"],
  ["switchesProtocols", "no_answer"],
  ["sendsChunkExtensionWithoutEnd", "http_200"],
  ["sendsChunkSizeWithoutEnd", "http_200"],
  ["sendsTrailersWithoutEnd", "http_200"],
  ["speaksHttp10", "http_200"],
  ["closesInItsHead", "no_answer"],
  ["resets", "no_answer"],
  ["saysMoreThanItsLength", "http_200"],
  ["saysLessThanItsLength", "http_200"],
  ["saysTwoLengths", "no_answer"],
  ["answersUnasked", "http_200"],
  ["redirectsForever", "http_308"],
];
const httpsOnly: readonly AnimalName[] = ["acceptsAndIsSilent", "dripsItsHandshake"];

let zoo: ChildProcess;
let visitor: ChildProcess;
let ports: Readonly<Record<AnimalName, number>>;
/** After the same number of tries at a receiver that behaves. */
let tame: VisitReport;
const folder = mkdtempSync(join(tmpdir(), "orderbridge-zoo-"));

async function start(file: string, parameters: readonly string[], execArgv: readonly string[]) {
  const child = fork(join(import.meta.dirname, file), parameters, { execArgv: [...execArgv], env: {} });
  const [first] = await once(child, "message");
  return { child, first };
}

async function ask<T>(child: ChildProcess, message: object | string): Promise<T> {
  const answer = once(child, "message");
  child.send(message);
  return (await answer)[0] as T;
}

const visit = (animal: AnimalName, isSilent: boolean): Promise<VisitReport> => {
  const scheme = httpsOnly.includes(animal) ? "https" : "http";
  return ask(visitor, { scheme, port: ports[animal], tries, isSilent } satisfies Visit);
};

beforeAll(async () => {
  const [animals, gateway] = await Promise.all([
    start("zoo.worker.ts", [], []),
    start(
      "zoo-visitor.worker.ts",
      [`sqlite:${join(folder, "payments.db")}`, String(silentDeadlineMs)],
      ["--expose-gc"],
    ),
  ]);
  zoo = animals.child;
  visitor = gateway.child;
  ports = animals.first;
  for (let round = 0; round < 2; round++) await visit("tame", true);
  for (let round = 0; round < 2; round++) tame = await visit("tame", false);
  expect(tame.outcomes).toEqual({ http_204: tries });
});

afterAll(async () => {
  for (const child of [zoo, visitor]) child?.kill("SIGKILL");
  rmSync(folder, { recursive: true, force: true });
});

/**
 * A try holds at most one read of its socket (64 kB), a head (16 kB) and 2 kB of answer, so 256 at once need 21 MB; the
 * rest is room for V8, which grows as it likes. What is kept without a bound is far above: a receiver on this machine
 * sends hundreds of megabytes in the time that it gets.
 */
function expectFlat({ memory }: VisitReport): void {
  const grown = {
    heapMb: Math.round((memory.heap - tame.memory.heap) / megabyte),
    externalMb: Math.round((memory.external + memory.buffers - tame.memory.external - tame.memory.buffers) / megabyte),
    riseMb: Math.round((memory.rise - tame.memory.rise) / megabyte),
  };
  expect(grown.heapMb).toBeLessThan(8);
  expect(grown.externalMb).toBeLessThan(4);
  expect(grown.riseMb).toBeLessThan(64);
}

/** No connection is held for a receiver that misbehaves. */
async function expectLeft(animal: AnimalName): Promise<void> {
  await expect.poll(() => ask<ZooTally>(zoo, animal), { timeout: 5_000 }).toMatchObject({ open: 0 });
}

test.each(silent)(
  "a receiver that %s gets its deadline and nothing more",
  { timeout: 60_000 },
  async (animal, outcome) => {
    const report = await visit(animal, true);
    expect(report.outcomes).toEqual({ [outcome]: tries });
    expect(report.longestMs).toBeLessThan(silentDeadlineMs + 1_500);
    expectFlat(report);
    if (animal !== "neverReads") await expectLeft(animal); // that one does not notice
  },
);

test.each(loud)("a receiver that %s is left at once", { timeout: 60_000 }, async (animal, outcome) => {
  const report = await visit(animal, false);
  expect(report.outcomes).toEqual({ [outcome]: tries });
  expect(report.longestMs).toBeLessThan(patientDeadlineMs / 2);
  expectFlat(report);
  expect(report.answerLength).toBeLessThanOrEqual(2_048);
  // A try is one request: nothing is sent again, and no redirect is followed.
  expect((await ask<ZooTally>(zoo, animal)).requests).toBe(tries);
  if (animal !== "redirectsForever") await expectLeft(animal);
});
