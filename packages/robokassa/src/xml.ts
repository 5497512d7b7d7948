import { ResponseShapeError } from "@orderbridge/core";
import { XMLParser } from "fast-xml-parser";
import * as v from "valibot";

/** Namespaces differ between the documents and the official tests, so elements are matched by their local names. */
const parser = new XMLParser({
  ignoreAttributes: false,
  attributeNamePrefix: "@",
  parseAttributeValue: false,
  removeNSPrefix: true,
  parseTagValue: false,
  processEntities: false,
  isArray: (name) => ["Field", "Group", "Currency"].includes(name),
});

const rootSchema = v.record(v.string(), v.unknown());

/**
 * Reads an XML answer whose root holds what `schema` describes; attributes stand under `@` and their name. Entities and document types are not processed: an
 * answer that brings one is refused.
 *
 * @throws {ResponseShapeError}
 */
export function parseXml<Schema extends v.GenericSchema>(
  text: string,
  { schema, name }: { readonly schema: Schema; readonly name: string },
): v.InferOutput<Schema> {
  const fail = (paths: readonly string[], problem: string): never => {
    throw new ResponseShapeError(`robokassa: ${name} answered ${problem}`, {
      vendor: "robokassa",
      status: 200,
      paths,
      outcome: "executed",
    });
  };
  if (/<!(DOCTYPE|ENTITY)/i.test(text)) fail([], "a document type, which no answer of its has");
  let document: unknown;
  try {
    document = parser.parse(text);
  } catch {
    fail([], "text that is not XML");
  }
  const root = v.safeParse(rootSchema, document);
  const [, content] = (root.success ? Object.entries(root.output) : []).find(([tag]) => !tag.startsWith("?")) ?? [];
  const parsed = v.safeParse(schema, content);
  if (parsed.success) return parsed.output;
  const paths = parsed.issues.map((issue) => v.getDotPath(issue) ?? "(root)");
  return fail(paths, `an unexpected shape at ${paths.slice(0, 5).join(", ")}`);
}

const named: Readonly<Record<string, string>> = { lt: "<", gt: ">", amp: "&", quot: '"', apos: "'" };

/** The five entities that XML itself has, and characters by number. */
export function decodeXmlText(text: string): string {
  return text.replace(/&(?:(lt|gt|amp|quot|apos)|#(\d{1,7})|#x([0-9a-f]{1,6}));/gi, (whole, name, decimal, hex) => {
    if (name) return named[name.toLowerCase()] ?? whole;
    const code = decimal ? Number(decimal) : Number.parseInt(hex, 16);
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
}
