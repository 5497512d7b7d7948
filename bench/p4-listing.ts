import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { Bitrix } from "@2bad/bitrix";
import { B24Hook } from "@bitrix24/b24jssdk";
import { createBitrix } from "@orderbridge/bitrix";
import { createMemoryStorage } from "@orderbridge/core/memory";
import type { BenchResult, Target } from "./harness.ts";
import { createFastClock } from "./p4-clock.ts";
import type { PortalReport, PortalSettings } from "./p4-portal.ts";

/** Reads all deals and gives their ids, or those it got until `endsAt`. */
type Reader = (
  webhookUrl: string,
  options: { readonly speed: number; readonly operatingLimit: number; readonly endsAt: number },
) => Promise<number[]>;

interface Run extends PortalReport {
  readonly seconds: number;
  readonly rows: number;
  readonly missing: number;
  readonly doubled: number;
}

/** A budget that has rested: its whole burst is there. */
const rested =
  (isRested: boolean): Reader =>
  async (webhookUrl, { speed, operatingLimit }) => {
    const clock = createFastClock(speed);
    let past = isRested ? 3_600_000 : 0;
    const storage = createMemoryStorage({ clock: { ...clock, now: () => new Date(clock.now().getTime() - past) } });
    if (isRested)
      await storage.rateLimits.reserve(`bitrix:${new URL(webhookUrl).host}`, { intervalMs: 500, capacity: 45 });
    past = 0;
    // The deadline runs by the fast clock as well, but this machine is no faster.
    const bitrix = createBitrix({
      webhookUrl,
      storage,
      clock,
      timeoutMs: 65_000 * speed,
      operatingLimitSeconds: operatingLimit * 0.9375,
    });
    const ids: number[] = [];
    for await (const { id } of bitrix.list<{ id: number }>("crm.item.list", { entityTypeId: 2 })) ids.push(id);
    return ids;
  };
const ours = rested(true);
const oursDrained = rested(false);

/** Its `list`: a first page, then offsets in batches, two requests a second. */
const twoBad: Reader = async (webhookUrl) => {
  const { result } = await Bitrix(webhookUrl.replace(/\/$/, "")).deals.list({ select: ["*"] } as never);
  return (result as unknown as { ID: string }[]).map(({ ID }) => Number(ID));
};

/** Its `fetchList`, which it names the fast one for many rows: a page by id for each request. */
const b24jssdk: Reader = async (webhookUrl, { endsAt }) => {
  const hook = B24Hook.fromWebhookUrl(webhookUrl.replace("http://", "https://"));
  const { ajaxClient } = hook.getHttpClient("v2" as never) as unknown as {
    ajaxClient: {
      interceptors: { request: { use(change: (config: { baseURL?: string; url?: string }) => unknown): void } };
    };
  };
  // It insists on https; the portal of this bench speaks http.
  ajaxClient.interceptors.request.use((config) => {
    for (const name of ["baseURL", "url"] as const) {
      const value = config[name];
      if (value !== undefined) config[name] = value.replace("https://", "http://");
    }
    return config;
  });
  const ids: number[] = [];
  const pages = hook.actions.v2.fetchList.make<{ id: number }>({
    method: "crm.item.list",
    params: { entityTypeId: 2 },
    idKey: "id",
    customKeyForResult: "items",
  });
  for await (const page of pages) {
    for (const { id } of page) ids.push(id);
    if (performance.now() > endsAt) break;
  }
  return ids;
};

async function runOnce(read: Reader, settings: PortalSettings, { limitSeconds = 600 } = {}): Promise<Run> {
  const child: ChildProcess = fork(join(import.meta.dirname, "p4-portal.ts"), [JSON.stringify(settings)]);
  try {
    const [webhookUrl] = (await once(child, "message")) as [string];
    const startedAt = performance.now();
    const ids = await read(webhookUrl, { ...settings, endsAt: startedAt + limitSeconds * 1000 });
    const seconds = ((performance.now() - startedAt) / 1000) * settings.speed;
    child.send("report");
    const [report] = (await once(child, "message")) as [PortalReport];
    const seen = new Set(ids);
    return {
      ...report,
      seconds,
      rows: ids.length,
      missing: report.kept.filter((id) => !seen.has(id)).length,
      doubled: ids.length - seen.size,
    };
  } finally {
    child.kill("SIGKILL");
  }
}

async function medianOf(rounds: number, run: () => Promise<Run>): Promise<Run> {
  const runs: Run[] = [];
  for (let round = 0; round < rounds; round++) runs.push(await run());
  const worst = (pick: (run: Run) => number) => Math.max(...runs.map(pick));
  const median = [...runs].sort((left, right) => left.seconds - right.seconds)[rounds >> 1] as Run;
  return {
    ...median,
    missing: worst((run) => run.missing),
    doubled: worst((run) => run.doubled),
    refusedForRate: worst((run) => run.refusedForRate),
    refusedForTime: worst((run) => run.refusedForTime),
  };
}

/** Deals inside the burst, past it, and against the running time; `BENCH_P4_FULL=1` takes the sizes of the target; else the limit is as much smaller as the deals are fewer. */
const sizes =
  process.env.BENCH_P4_FULL === "1"
    ? { burst: 20_000, past: 125_000, operating: 500_000, operatingLimit: 480 }
    : { burst: 20_000, past: 125_000, operating: 125_000, operatingLimit: 160 };
const rounds = 5;

/** All deals of a portal, page cost 5 ms in real time, and 69 ms with the limit of running time. */
const note = (text: string): void => {
  process.stderr.write(`P4: ${text}\n`);
};

export async function benchListing(): Promise<BenchResult> {
  const table: string[][] = [["", "deals", "seconds", "rows/s", "requests", "503", "429", "missing", "doubled"]];
  const targets: Target[] = [];
  const add = (name: string, run: Run): void => {
    note(`${name}: ${run.rows} rows in ${run.seconds.toFixed(1)} s`);
    table.push([
      name,
      String(run.rows),
      run.seconds.toFixed(2),
      (run.rows / run.seconds).toFixed(0),
      String(run.requests),
      String(run.refusedForRate),
      String(run.refusedForTime),
      String(run.missing),
      String(run.doubled),
    ]);
  };
  const base: PortalSettings = {
    deals: sizes.burst,
    pageCost: 0.005,
    speed: 1,
    edits: false,
    drained: false,
    operatingLimit: 480,
  };

  const burst = await medianOf(rounds, () => runOnce(ours, base));
  add("ours, 5 ms, inside the burst", burst);
  const peer = await medianOf(rounds, () => runOnce(twoBad, base));
  add("@2bad/bitrix, 5 ms", peer);
  const sdk = await runOnce(b24jssdk, base, { limitSeconds: 40 });
  add("@bitrix24/b24jssdk, 5 ms, first 40 s", { ...sdk, missing: Number.NaN });
  targets.push({
    text: `inside the burst at least 8 times @2bad/bitrix (${(peer.seconds / burst.seconds).toFixed(1)})`,
    met: peer.seconds / burst.seconds >= 8,
  });

  const edited = await runOnce(ours, { ...base, edits: true });
  add("ours, 5 ms, while 20 come and 20 go each second", edited);
  const past = await runOnce(oursDrained, { ...base, deals: sizes.past, drained: true, edits: true });
  add("ours, 5 ms, past the burst, while 20 come and 20 go", past);
  const pace = past.rows / past.seconds;
  targets.push({ text: `past the burst at least 4 500 rows/s (${pace.toFixed(0)})`, met: pace >= 4_500 });
  const refused = burst.refusedForRate + edited.refusedForRate + past.refusedForRate;
  targets.push({ text: `no 503 (${refused})`, met: refused === 0 });
  const wrong = [burst, edited, past].reduce((sum, run) => sum + run.missing + run.doubled, 0);
  targets.push({ text: `nothing missing or doubled while deals come and go (${wrong})`, met: wrong === 0 });

  const operating = await runOnce(ours, {
    ...base,
    deals: sizes.operating,
    pageCost: 0.069,
    speed: 20,
    operatingLimit: sizes.operatingLimit,
  });
  add(`ours, 69 ms, ${sizes.operatingLimit} s of running time, clock 20 times as fast`, operating);
  targets.push({ text: `no 429 at 69 ms (${operating.refusedForTime})`, met: operating.refusedForTime === 0 });
  const used = operating.mostOperating / sizes.operatingLimit;
  targets.push({ text: `at least 0.9 of the running time used (${used.toFixed(2)})`, met: used >= 0.9 });
  return { id: "P4", title: `all deals of a portal, median of ${rounds} inside the burst`, table, targets };
}
