import * as v from "valibot";
import { numberSource } from "./exact-json.ts";
import { type AmountProblem, currencies, parseAmount } from "./money.ts";

/** Shapes on the wire. Strict: a field that we do not know is a mistake of the caller's, and said so. */

/** Limits of what a merchant may attach to a payment. */
export const metadataLimits = { maxKeys: 50, maxBytes: 8_192, maxDepth: 5 } as const;

const amountProblems: Readonly<Record<AmountProblem, string>> = {
  malformed: 'must be a decimal number such as 500 or "500.50", without sign or exponent',
  too_many_decimals: "must have at most two decimals",
  too_large: "must be at most 1000000000000.00",
};

/** Major units, from the digits that were sent: a JSON number or decimal text. Gives minor units. */
const amount = v.pipe(
  v.unknown(),
  v.rawTransform<unknown, bigint>(({ dataset, addIssue, NEVER }) => {
    const digits = numberSource(dataset.value) ?? dataset.value;
    const result = typeof digits === "string" ? parseAmount(digits) : ({ ok: false, problem: "malformed" } as const);
    if (result.ok) return result.amountMinor;
    addIssue({ message: amountProblems[result.problem] });
    return NEVER;
  }),
);

const text = (maxLength: number) =>
  v.pipe(
    v.string("must be text"),
    v.maxLength(maxLength, `must have at most ${maxLength} characters`),
    v.check((value) => value.isWellFormed() && !/[^\P{Cc}\t\n\r]/u.test(value), "must be readable text"),
  );

const webAddress = v.pipe(
  text(2_000),
  v.check((value) => URL.canParse(value) && /^https?:$/.test(new URL(value).protocol), "must be an http(s) address"),
);

const depthOf = (value: unknown): number =>
  typeof value !== "object" || value === null || numberSource(value) !== undefined
    ? 0
    : 1 + Math.max(0, ...Object.values(value).map(depthOf));

/** Gives JSON text: what the merchant sent comes back in every webhook, `{}` as `{}` and each number digit for digit. */
const metadata = v.pipe(
  v.custom<object>(
    (value) =>
      typeof value === "object" && value !== null && !Array.isArray(value) && numberSource(value) === undefined,
    "must be an object",
  ),
  v.check(
    (value) => Object.keys(value).length <= metadataLimits.maxKeys,
    `must have at most ${metadataLimits.maxKeys} keys`,
  ),
  v.check(
    (value) => depthOf(value) <= metadataLimits.maxDepth,
    `must be at most ${metadataLimits.maxDepth} levels deep`,
  ),
  v.transform((value) => JSON.stringify(value)),
  v.check(
    (value) => Buffer.byteLength(value) <= metadataLimits.maxBytes,
    `must take at most ${metadataLimits.maxBytes} bytes as JSON`,
  ),
);

const seconds = (min: number, max: number) => {
  const message = `must be a whole number of seconds from ${min} to ${max}`;
  return v.pipe(
    v.unknown(),
    v.transform((value) => numberSource(value)),
    v.string("must be a whole number of seconds"),
    v.regex(/^(0|[1-9]\d{0,7})$/, message),
    v.transform(Number),
    v.minValue(min, message),
    v.maxValue(max, message),
  );
};

export const initRequest = v.strictObject({
  amount,
  currency: v.optional(v.picklist(currencies, `must be one of ${currencies.join(", ")}`)),
  description: v.optional(text(500)),
  webhook_url: v.optional(text(2_000)),
  webhook_secret: v.optional(v.string("must be text")),
  metadata: v.optional(metadata),
  return_url: v.optional(webAddress),
  expires_in: v.optional(seconds(60, 2_592_000)),
  provider: v.optional(text(50)),
});

export const refundRequest = v.strictObject({ amount: v.optional(amount) });

export const endpointRequest = v.strictObject({
  url: text(2_000),
  secret: v.optional(v.string("must be text")),
});

export const rotateRequest = v.strictObject({
  secret: v.optional(v.string("must be text")),
  overlap: v.optional(seconds(0, 2_592_000)),
});
