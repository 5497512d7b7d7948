import { type Answer, Refused, type Row, type Values } from "./fake-bitrix-answer.ts";
import { encodePhpMap, type PhpValue, parsePhpForm } from "./php-form.ts";

const longestBatch = 50;
const mapNames = ["result", "result_error", "result_total", "result_next", "result_time"] as const;
type Maps = Record<(typeof mapNames)[number], [string, unknown][]>;

/**
 * `batch`: commands are texts, run one after the other; the 51st and later ones are refused one by one; each has its own
 * error; `halt` leaves the rest out. Commands with numbers for keys run in the order of the numbers, where the portal takes
 * them as they are written: JavaScript does not keep that. "Batch", apidocs.bitrix24.ru (read 2026-08)
 */
export async function runFakeBatch(
  parameters: Values,
  run: (method: string, parameters: Values) => Promise<{ readonly answer: Answer; readonly time: Values }>,
): Promise<unknown> {
  // A form says "true" or "1", JSON also true.
  const halt = /^(1|true|y)$/i.test(String(parameters.halt ?? 0));
  const commands = Object.entries((parameters.cmd ?? {}) as Values).filter(
    (entry): entry is [string, string] => typeof entry[1] === "string",
  );
  const maps: Maps = { result: [], result_error: [], result_total: [], result_next: [], result_time: [] };
  for (const [index, [key, command]] of commands.entries()) {
    try {
      if (index >= longestBatch) throw new Refused(400, "ERROR_BATCH_LENGTH_EXCEEDED", "Max batch length exceeded");
      const [name = "", query = ""] = command.split("#", 1)[0]?.split(/\?(.*)/s) ?? [];
      const method = name.toLowerCase();
      if (["batch", "upload", "download"].includes(method)) {
        throw new Refused(405, "ERROR_BATCH_METHOD_NOT_ALLOWED", "Method is not allowed for batch usage");
      }
      const { answer, time } = await run(method, resolve(parsePhpForm(query), maps) as Values);
      maps.result.push([key, answer.result]);
      if (answer.total !== undefined) maps.result_total.push([key, answer.total]);
      if (answer.next !== undefined) maps.result_next.push([key, answer.next]);
      maps.result_time.push([key, time]);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      maps.result_error.push([key, error.body]);
      if (halt) break;
    }
  }
  return Object.fromEntries(mapNames.map((name) => [name, encodePhpMap(maps[name])]));
}

const sources: Readonly<Record<string, keyof Maps>> = {
  $result: "result",
  $error: "result_error",
  $total: "result_total",
  $next: "result_next",
};

/**
 * References in a command's parameters. One runs to the next white space; where its path ends early, the deepest value
 * that was found is used: as it is when it is the whole parameter, else only when it is a text or a number.
 */
function resolve(value: PhpValue, maps: Maps): unknown {
  if (typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, child]) => [key, resolve(child, maps)]));
  }
  if (!value.includes("$")) return value;
  const find = (text: string): unknown => {
    const [, head = ""] = /^(\$\w+)\[/.exec(text) ?? [];
    const source = sources[head];
    if (!source) return text;
    const steps = [...text.slice(head.length).matchAll(/\[([^\]]*)\]/g)].map(([, step = ""]) => step);
    const entry = maps[source].find(([key]) => key === steps[0]);
    if (!entry) return Object.fromEntries(maps[source]);
    let node: unknown = entry[1];
    for (const step of steps.slice(1)) {
      // What is null is not there, by PHP's `isset`.
      const next: unknown = typeof node === "object" && node !== null ? (node as Row)[step] : undefined;
      if (next === undefined || next === null) break;
      node = next;
    }
    return node;
  };
  if (/^\$\w+\[\S*$/.test(value)) return find(value);
  return value.replace(/\$\w+\[\S*/g, (text) => {
    const found = find(text);
    return typeof found === "string" || typeof found === "number" ? String(found) : text;
  });
}
