import { fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { listen } from "@orderbridge/core/testing";
import { createFakeKaspi } from "@orderbridge/kaspi-amocrm/testing";
import type { BenchResult } from "./harness.ts";

const base = 10_000;
/** `P6_ORDERS=1000000` runs the whole claim, which takes long; the default shows the slope within minutes. */
const large = Number(process.env.P6_ORDERS ?? 50_000);
/** A run that takes longer is stopped: then its figures are for what it did, and the target is missed. */
const budgetMs = Number(process.env.P6_MINUTES ?? (large > 100_000 ? 120 : 10)) * 60_000;
const first = Date.UTC(2024, 0, 1);
const stepMs = 60_000; // one order a minute: 20 160 in the 14 days of a listing, whatever the count

interface Link {
  readonly entity_id: number;
  readonly to_entity_id: number;
  readonly to_entity_type: string;
  readonly metadata: { readonly catalog_id: number; readonly quantity: number };
}

interface Run {
  readonly seen: number;
  readonly created?: number;
  readonly seconds: number;
  readonly peakMb: number;
}

/**
 * amoCRM that gives ids and forgets: only the goods of the last leads are kept, since the sync reads back what it linked.
 * So only our own process can grow.
 */
function createForgetfulAmocrm(): (request: Request) => Promise<Response> {
  let nextId = 1;
  const linked = new Map<number, Link[]>();
  return async (request) => {
    const { pathname, searchParams } = new URL(request.url);
    if (request.method === "GET") {
      if (!pathname.endsWith("/leads/links")) return new Response(null, { status: 204 });
      const links = searchParams.getAll("filter[entity_id][]").flatMap((id) => linked.get(Number(id)) ?? []);
      return links.length === 0 ? new Response(null, { status: 204 }) : Response.json({ _embedded: { links } });
    }
    const items = (await request.json()) as readonly (Link & { readonly request_id?: string; readonly id?: number })[];
    if (pathname.endsWith("/leads/link")) {
      for (const link of items) linked.set(link.entity_id, [...(linked.get(link.entity_id) ?? []), link]);
      for (const [leadId] of linked) {
        if (linked.size <= 200) break;
        linked.delete(leadId);
      }
      return Response.json({ _embedded: { links: items } });
    }
    const rows = items.map(({ request_id, id }) => ({ id: id ?? nextId++, request_id }));
    return Response.json({ _embedded: { [pathname.split("/").at(-1) as string]: rows } });
  };
}

async function backfill(count: number): Promise<Run> {
  const kaspi = createFakeKaspi({
    generated: {
      count,
      from: first,
      stepMs,
      at: (index) => ({
        code: String(700_000_000 + index),
        state: "ARCHIVE",
        status: "COMPLETED",
        cellPhone: String(7_010_000_000 + (index % 200_000)),
        entries: [{ sku: `SKU-${index % 5_000}`, name: "Шам", basePrice: 7990, quantity: 1 + (index % 3) }],
      }),
    },
  });
  const amocrm = createForgetfulAmocrm();
  const server = await listen((request) => {
    kaspi.journal.clear();
    return new URL(request.url).pathname.startsWith("/shop/") ? kaspi.handle(request) : amocrm(request);
  });
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-p6-"));
  try {
    const args = [
      server.url,
      `sqlite:${join(folder, "p6.db")}`,
      String(first),
      String(first + (count - 1) * stepMs),
      String(budgetMs),
    ];
    // V8 lets the young generation grow with the run before it collects; bounded, what is left is what we hold.
    const child = fork(join(import.meta.dirname, "p6-worker.ts"), args, { execArgv: ["--max-semi-space-size=4"] });
    return await new Promise<Run>((resolve, reject) => {
      child.once("message", (message) => resolve(message as Run));
      child.once("exit", (code) => reject(new Error(`the back-fill ended with ${code}`)));
    });
  } finally {
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

export async function benchBackfill(): Promise<BenchResult> {
  const small = await backfill(base);
  const big = await backfill(large);
  const row = (asked: number, { seen, seconds, peakMb }: Run) => [
    String(asked),
    String(seen),
    seconds.toFixed(0),
    (seen / seconds).toFixed(0),
    peakMb.toFixed(0),
  ];
  const isWhole = big.seen === large && big.created === large;
  const done = isWhole ? large : `${big.seen} of ${large} (stopped after ${budgetMs / 60_000} min)`;
  const growthMb = big.peakMb - small.peakMb;
  return {
    id: "P6",
    title: `Back-fill of ${large} generated Kaspi orders into SQLite and an amoCRM that keeps only the goods of the last leads, beside ${base}: peak RSS of its own process with --max-semi-space-size=4${large < 1_000_000 ? "; the whole claim: P6_ORDERS=1000000" : ""}`,
    table: [["orders", "done", "seconds", "orders/s", "peak MB"], row(base, small), row(large, big)],
    targets: [
      {
        text: `peak at ${done} within 60 MB of the peak at ${base} (${growthMb.toFixed(0)} MB more)`,
        met: isWhole && growthMb <= 60,
      },
    ],
  };
}
