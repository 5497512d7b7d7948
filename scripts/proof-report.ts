// docs/reliability.md, for people, from the figures of docs/proof.json. `pnpm proof` calls it; alone it writes the page anew.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");

export interface Proof {
  readonly commit: string;
  readonly uncommittedChanges: boolean;
  readonly node: string;
  readonly startedAt: string;
  readonly tests: { readonly passed: number; readonly failed: number; readonly skipped: number };
  readonly suites: Readonly<Record<string, Readonly<Record<string, number | string>>>>;
}

/** What a family of suites does, by the beginning of its name. */
const families: readonly (readonly [prefix: string, title: string, text: string])[] = [
  [
    "gateway-kill-9",
    "A gateway process killed at every step",
    "One payment from its creation to the recorded delivery of its last webhook, with a provider session, two transfers and a refund. The process is killed with SIGKILL before and after each SQL statement and each provider call, once for each of these points; then another process goes on. `lost`: stored events that did not reach the receiver. `repeated`: webhooks that arrived twice, which happens when a process dies between the receiver's answer and its record; id and bytes are the same.",
  ],
  [
    "gateway-random-kills",
    "Workers and the database killed at random",
    "Three shops create payments and a bank reports transfers while workers are killed every half second, and, where it is a server, the database every two seconds (a private instance, SIGKILL to the whole group). Afterwards every acknowledged transfer must be booked once, every stored event delivered, and nothing delivered that is not stored. A webhook may arrive twice only where a try has no recorded outcome.",
  ],
  [
    "gateway-callbacks",
    "Fifty identical callbacks and fifty polls at once",
    "From two processes and a third one that asks the bank meanwhile: one transition, one booking, one event in each round.",
  ],
  [
    "gateway-refunds",
    "A bank that times out on half of the refunds",
    "Partial refunds from two processes, more than was paid; the answer to each second one gets lost after the money has moved. The sum never exceeds what was paid, and every open refund is resolved by what the bank did.",
  ],
  [
    "gateway-cursor",
    "Eight writers whose commits are delayed",
    "A reader of the events cursor runs beside them: nothing missed, nothing twice, the events of each payment in order.",
  ],
  [
    "gateway-model",
    "Stories of a payment, made at random",
    "Transfers, refunds, cancels, failures, time and crashed transactions in any order, from two processes, against a model: states move along the table, and refunds never exceed what was paid.",
  ],
  [
    "gateway-outage",
    "The database away",
    "The private server is killed and started again later. While it is away no request is answered with success; afterwards everything that was acknowledged is delivered. `recoveryMs`: from its first answer to the first new webhook.",
  ],
  [
    "kaspi-amocrm-kill-points",
    "An import and a reconcile killed at every step",
    "Four Kaspi orders on their way into amoCRM. The worker dies before and after each request and each SQL statement, once for each of these points; then another worker goes on. `same outcome`: leads, buyers, goods, prices, stages and notes in the fake are what they are without a death.",
  ],
  [
    "kaspi-amocrm-webhook-kill-points",
    "A worker killed between a webhook of amoCRM and what it leads to",
    "The worker dies at each step from the request to the end of the look. `same outcome`: no event that was answered with 200 is forgotten.",
  ],
  [
    "kaspi-amocrm-faults",
    "A fault at every call",
    "Each kind of fault (refusals, pages of HTML, broken or lost answers, before and after the call has run) at each call of an import. `same outcome`: what the fakes hold in the end is what they hold without it.",
  ],
  [
    "bitrix-kill-points",
    "A Bitrix worker killed at every step",
    "As for the import, for six jobs of the sync between an order and its deal, the site's status webhook and the push of a product.",
  ],
  [
    "bitrix-storm",
    "A storm of edits on both sides",
    "Orders and their deals are edited on both sides at once, events get lost, doubled and shuffled, robots rewrite what we write, processes are killed. `diverging`: pairs that differ after settling.",
  ],
];

function table(rows: readonly (readonly [string, Readonly<Record<string, number | string>>])[]): string {
  const columns = [...new Set(rows.flatMap(([, figures]) => Object.keys(figures)))];
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [
    line(["", ...columns]),
    line(["---", ...columns.map(() => "---:")]),
    ...rows.map(([name, figures]) => line([name, ...columns.map((column) => String(figures[column] ?? ""))])),
  ].join("\n");
}

/** The page; every figure in it was measured in the run that it names. */
export function reliabilityReport({ commit, uncommittedChanges, node, startedAt, tests, suites }: Proof): string {
  const told = new Set<string>();
  const sections = families.flatMap(([prefix, title, text]) => {
    const own = Object.entries(suites).filter(([name]) => name.startsWith(prefix));
    for (const [name] of own) told.add(name);
    if (own.length === 0) return [];
    const rows = own.map(([name, figures]) => [name.slice(prefix.length + 1) || "all", figures] as const);
    return [`## ${title}\n\n${text}\n\n${table(rows)}\n`];
  });
  const others = Object.entries(suites).filter(([name]) => !told.has(name));
  const rest =
    others.length === 0
      ? ""
      : `\n## Other suites\n\n${others
          .map(
            ([name, figures]) =>
              `- \`${name}\`: ${Object.entries(figures)
                .map(([key, value]) => `${key} ${value}`)
                .join(", ")}`,
          )
          .join("\n")}\n`;
  return `# Reliability report

Made by \`pnpm proof\` from [proof.json](proof.json): do not edit. The run began at ${startedAt} on Node ${node.replace("v", "")}, at commit
\`${commit.slice(0, 12)}\`${uncommittedChanges ? " with uncommitted changes" : ""}: ${tests.passed} tests passed, ${tests.failed} failed, ${tests.skipped} were skipped.

The receiver and the provider run in another process than the gateway and are never killed.

${sections.join("\n")}${rest}`;
}

export function writeReliabilityReport(proof: Proof): void {
  writeFileSync(join(root, "docs/reliability.md"), reliabilityReport(proof));
}

if (import.meta.main) {
  writeReliabilityReport(JSON.parse(readFileSync(join(root, "docs/proof.json"), "utf8")) as Proof);
}
