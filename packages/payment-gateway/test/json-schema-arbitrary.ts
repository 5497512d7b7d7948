import fc from "fast-check";

// biome-ignore lint/suspicious/noExplicitAny: a JSON Schema that is walked freely
type Schema = any;

/** Keywords that say something to people, or that are judged elsewhere. */
const silent = new Set(["description", "examples", "default", "format", "title"]);

/**
 * Values that a JSON Schema describes. Only for the keywords that our document uses: any other one throws, so that a new
 * one is not passed over.
 */
export function valuesOf(schema: Schema): fc.Arbitrary<unknown> {
  const take = (...keywords: readonly string[]) => {
    const unknown = Object.keys(schema).filter((key) => !silent.has(key) && !keywords.includes(key));
    if (unknown.length > 0) throw new Error(`values of ${unknown.join(", ")} are not known`);
  };
  if (schema.oneOf) {
    take("oneOf");
    return fc.oneof(...schema.oneOf.map(valuesOf));
  }
  if (schema.enum) {
    take("enum", "type");
    return fc.constantFrom(...schema.enum);
  }
  switch (schema.type) {
    case "integer":
      take("type", "minimum", "maximum");
      return fc.integer({ min: schema.minimum, max: schema.maximum });
    case "number": {
      // Our only ones are amounts, of which the description says that they have two decimals.
      take("type", "exclusiveMinimum", "maximum");
      const { exclusiveMinimum: min, maximum: max } = schema;
      return fc.integer({ min: min * 100 + 1, max: max * 100 }).map((minor) => minor / 100);
    }
    case "string":
      take("type", "pattern", "minLength", "maxLength");
      return textsOf(schema);
    case "object": {
      take("type", "properties", "required", "additionalProperties", "maxProperties");
      if (schema.properties === undefined) {
        return fc.dictionary(fc.string({ maxLength: 20 }), fc.jsonValue({ maxDepth: 2 }), {
          maxKeys: Math.min(20, schema.maxProperties),
        });
      }
      const fields = Object.entries<Schema>(schema.properties).map(([name, inner]) => [name, valuesOf(inner)] as const);
      return fc.record(Object.fromEntries(fields), { requiredKeys: schema.required });
    }
    default:
      throw new Error(`values of ${JSON.stringify(schema)} are not known`);
  }
}

function textsOf({ pattern, format, minLength = 0, maxLength = 60 }: Schema): fc.Arbitrary<string> {
  if (format === "uri") {
    const path = fc.array(fc.stringMatching(/^[\w.~-]{1,12}$/), { maxLength: 5 });
    return path.map((parts) => `https://shop.example/${parts.join("/")}`);
  }
  if (pattern === undefined) return fc.string({ minLength, maxLength });
  const regExp = new RegExp(pattern, "u");
  if (!pattern.startsWith("^[^")) return fc.stringMatching(regExp);
  const unit = fc.oneof(
    fc.string({ unit: "grapheme", minLength: 1, maxLength: 1 }),
    fc.constantFrom("\t", "\n", "😀", "Ә"),
  );
  const free = fc.string({ unit, minLength, maxLength });
  const base64 = fc.base64String({ minLength: 16, maxLength: 80 }).map((text) => `whsec_${text}`);
  const length = (text: string): number => [...text].length;
  return fc
    .oneof({ arbitrary: free, weight: 4 }, base64)
    .filter((text) => regExp.test(text) && length(text) >= minLength && length(text) <= maxLength);
}

/** Values at a schema's limits and one step beyond, and of other types. Not every one is wrong: ask a validator. */
export function edgesOf(schema: Schema): readonly unknown[] {
  const edges: unknown[] = [null, true, -1, 0, 0.5, 1e21, "", "\u0000", "\ud800", "enc1.AAAAAAAA", [], {}, ["a"]];
  for (const {
    type,
    minimum,
    exclusiveMinimum,
    maximum,
    minLength,
    maxLength,
    maxProperties,
    enum: known = [],
  } of schema.oneOf ?? [schema]) {
    for (const limit of [minimum, exclusiveMinimum, maximum]) {
      if (limit !== undefined) edges.push(limit - 1, limit, limit + 1, limit + 0.5, String(limit));
    }
    for (const length of [minLength, maxLength]) {
      if (length !== undefined) {
        edges.push(
          "x".repeat(length),
          "x".repeat(length - 1),
          "x".repeat(length + 1),
          "😀".repeat(length),
          "😀".repeat(length + 1),
        );
      }
    }
    for (const count of maxProperties === undefined ? [] : [maxProperties, maxProperties + 1]) {
      edges.push(Object.fromEntries(Array.from({ length: count }, (_, index) => [`k${index}`, 1])));
    }
    if (type === "string")
      edges.push("whsec_%%%%", "whsec_AAAA", "500.005", "05", "1000000000000.01", "javascript:alert(1)");
    edges.push(...known, ...known.map((value: unknown) => String(value).toLowerCase()));
  }
  return edges;
}

/** Edges, and anything else that JSON can say. */
export const neighboursOf = (schema: Schema): fc.Arbitrary<unknown> =>
  fc.oneof(fc.constantFrom(...edgesOf(schema)), fc.jsonValue({ maxDepth: 2 }), fc.string({ unit: "binary" }));
