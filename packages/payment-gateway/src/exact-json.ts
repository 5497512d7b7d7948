/** JSON whose numbers are kept as the digits that were sent: an amount of `1.10` must not become `1.1`. */

interface RawNumber {
  readonly rawJSON: string;
}

// Part of ES2026; every Node that we support has it, TypeScript does not know it yet.
const json = JSON as unknown as {
  parse(
    text: string,
    reviver: (key: string, value: unknown, context: { readonly source?: string }) => unknown,
  ): unknown;
  rawJSON(text: string): RawNumber;
  isRawJSON(value: unknown): value is RawNumber;
};

/**
 * Reads JSON; numbers become values that {@link numberSource} and `JSON.stringify` give back digit for digit.
 *
 * @throws {SyntaxError} for text that is not JSON.
 */
export function parseExactJson(text: string): unknown {
  return json.parse(text, (_key, value, { source }) =>
    typeof value === "number" && source !== undefined ? json.rawJSON(source) : value,
  );
}

/** The digits of a number that {@link parseExactJson} read; `undefined` for any other value. */
export function numberSource(value: unknown): string | undefined {
  return json.isRawJSON(value) ? value.rawJSON : undefined;
}
