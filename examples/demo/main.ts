// npm start: every fake vendor and every reference server on this machine, with live traffic and a page that shows it.
// npm start -- --once: every flow once, its outcome read from the fakes, a line per flow, then `N passed, N failed`.
import { setTimeout as wait } from "node:timers/promises";
import { type Listening, listen } from "@orderbridge/core/testing";
import { stopWith } from "@orderbridge/example-support";
import { createBoard } from "./board.ts";
import { type Check, type Flow, flowTexts } from "./flow.ts";
import { createBitrixFlows } from "./flows/bitrix.ts";
import { createGatewayFlows } from "./flows/gateway.ts";
import { createKaspiFlows } from "./flows/kaspi.ts";
import { createRobokassaFlows } from "./flows/robokassa.ts";
import { createPage } from "./page.ts";

const args = process.argv.slice(2);
const once = args.includes("--once");
const unknown = args.filter((argument) => argument !== "--once");
if (unknown.length > 0) stopWith(`unknown argument ${unknown.join(" ")}; there is --once`);

const board = createBoard(flowTexts);
const stops: (() => Promise<void>)[] = [];
let stopping = false;

async function stop(exitCode: number): Promise<void> {
  if (stopping) return;
  stopping = true;
  await Promise.allSettled(stops.map((stopOne) => stopOne()));
  process.exit(exitCode);
}
process.on("SIGINT", () => void stop(0));
process.on("SIGTERM", () => void stop(0));

/** All fakes and servers, each in its flow. The flows start side by side. */
async function startFlows(): Promise<readonly Flow[]> {
  const started = await Promise.all([
    createKaspiFlows(),
    createBitrixFlows(),
    createRobokassaFlows(),
    createGatewayFlows(),
  ]);
  stops.push(...started.map((group) => group.stop));
  return started.flatMap((group) => group.flows);
}

/** Runs one flow and says how it went; an error is a failed check, not the end of the others. */
async function runOnce(flow: Flow): Promise<boolean> {
  board.setState(flow.id, "running");
  const startedAt = performance.now();
  let checks: readonly Check[];
  try {
    checks = await flow.once((text) => board.log(flow.id, text));
  } catch (error) {
    checks = [
      { name: "the flow ran to its end", ok: false, found: error instanceof Error ? error.message : String(error) },
    ];
  }
  const failed = checks.filter(({ ok }) => !ok);
  const passed = checks.length > 0 && failed.length === 0;
  board.setState(flow.id, passed ? "passed" : "failed");
  board.setFigures(flow.id, flow.figures());
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  process.stdout.write(
    `${passed ? "ok  " : "FAIL"} ${flow.id} ${flowTexts[flow.id - 1]?.title}: ${checks.length - failed.length} of ${checks.length} checks (${seconds} s)\n`,
  );
  for (const { name, found } of failed) process.stdout.write(`       ${name}: ${found}\n`);
  return passed;
}

async function keepMoving(flows: readonly Flow[]): Promise<void> {
  while (!stopping) {
    for (const flow of flows) {
      await wait(1_500);
      if (stopping) return;
      try {
        await flow.tick((text) => board.log(flow.id, text));
      } catch (error) {
        board.log(flow.id, `failed: ${error instanceof Error ? error.message : String(error)}`);
      }
      board.setFigures(flow.id, flow.figures());
    }
  }
}

let page: Listening | undefined;
if (!once) {
  const port = Number(process.env.PORT ?? 4000);
  if (!Number.isInteger(port) || port < 0 || port > 65535) stopWith("PORT must be a whole number from 0 to 65535");
  try {
    page = await listen(createPage(board), { port });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EADDRINUSE") {
      stopWith(`port ${port} is taken; choose another one, e.g. PORT=${port + 1} npm start`);
    }
    throw error;
  }
  stops.push(page.close);
  process.stdout.write(`open ${page.url.replace("127.0.0.1", "localhost")}\n`);
}

try {
  const flows = await startFlows();
  let passed = 0;
  for (const flow of flows) if (await runOnce(flow)) passed++;
  process.stdout.write(`${passed} passed, ${flows.length - passed} failed\n`);
  if (once) await stop(passed === flows.length ? 0 : 1);
  await keepMoving(flows);
} catch (error) {
  process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
  await stop(1);
}
