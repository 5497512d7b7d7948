import * as v from "valibot";
import { numberSource } from "./exact-json.ts";
import {
  type AmountProblem,
  amountPattern,
  type Currency,
  currencies,
  formatAmount,
  maxAmountMinor,
  parseAmount,
} from "./money.ts";
import { type PaymentStatus, paymentMoves } from "./payment.ts";

/**
 * What callers may send. Strict: a field that we do not know is a mistake of the caller's, and said so.
 *
 * The OpenAPI document is generated from these schemas. What valibot cannot express is said by `v.metadata` in the same
 * pipe, from the same limits.
 */

/** Limits of what a merchant may attach to a payment. */
export const metadataLimits = { maxKeys: 50, maxBytes: 8_192, maxDepth: 5 } as const;

const amountProblems: Readonly<Record<AmountProblem, string>> = {
  malformed: 'must be a decimal number such as 500 or "500.50", without sign or exponent',
  too_many_decimals: "must have at most two decimals",
  too_large: `must be at most ${formatAmount(maxAmountMinor)}`,
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
  v.metadata({
    description: "Major units with at most two decimals, as a JSON number without exponent or as text.",
    oneOf: [
      { type: "number", exclusiveMinimum: 0, maximum: Number(maxAmountMinor / 100n) },
      { type: "string", pattern: amountPattern },
    ],
    examples: [500, "500.50"],
  }),
);

/**
 * The document's patterns are read by many languages, so they hold nothing that one of them does not know: no classes of
 * Unicode, no look-around.
 */
const controls = "\\u0000-\\u0008\\u000b\\u000c\\u000e-\\u001f\\u007f-\\u009f";
const noControls = new RegExp(`^[^${controls}]*$`);
const noControlsOrBreaks = new RegExp(`^[^${controls}\\t\\n\\r]*$`);

/** Characters are code points, as JSON Schema counts them. */
const text = (maxLength: number) =>
  v.pipe(
    v.string("must be text"),
    v.check((value) => [...value].length <= maxLength, `must have at most ${maxLength} characters`),
    v.metadata({ maxLength }),
    v.regex(noControls, "must be readable text"),
    v.check((value) => value.isWellFormed(), "must be readable text"),
  );

const webAddress = v.pipe(
  text(2_000),
  v.check((value) => URL.canParse(value) && /^https?:$/.test(new URL(value).protocol), "must be an http(s) address"),
  v.metadata({ format: "uri" }),
);

/** Judged by the sender, which knows the addresses that this gateway may reach. */
const receiver = (description: string) => v.pipe(text(2_000), v.metadata({ format: "uri", description }));

const secretLength = { minLength: 8, maxLength: 256 } as const;
const secretMessage = `must be text of ${secretLength.minLength} to ${secretLength.maxLength} characters`;

const isBase64 = (key: string): boolean =>
  /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/.test(key) &&
  Buffer.from(key, "base64").length >= secretLength.minLength;

/** A secret that can sign webhooks. */
export const webhookSecret = v.pipe(
  v.string(secretMessage),
  v.check((value) => {
    const { length } = [...value];
    return length >= secretLength.minLength && length <= secretLength.maxLength;
  }, secretMessage),
  v.metadata(secretLength),
  v.regex(noControlsOrBreaks, "must be readable text in one line"),
  v.check((value) => value.isWellFormed(), "must be readable text in one line"),
  v.check(
    // Receivers decode it, and some libraries refuse what lacks its padding.
    (value) => !value.startsWith("whsec_") || isBase64(value.slice(6)),
    `must be base64 after whsec_, with its padding and at least ${secretLength.minLength} bytes of key`,
  ),
  v.check((value) => !value.startsWith("enc1."), "must not begin with enc1., as encrypted values in the database do"),
);

const depthOf = (value: unknown): number =>
  typeof value !== "object" || value === null || numberSource(value) !== undefined
    ? 0
    : 1 + Math.max(0, ...Object.values(value).map(depthOf));

/** Gives JSON text: what the merchant sent comes back in every webhook, `{}` as `{}` and each number digit for digit. */
const metadata = v.pipe(
  v.custom<Readonly<Record<string, unknown>>>(
    (value) =>
      typeof value === "object" && value !== null && !Array.isArray(value) && numberSource(value) === undefined,
    "must be an object",
  ),
  v.metadata({
    type: "object",
    description: `Comes back unchanged in every webhook. At most ${metadataLimits.maxKeys} keys, ${metadataLimits.maxDepth} levels, ${metadataLimits.maxBytes} bytes.`,
  }),
  v.maxEntries(metadataLimits.maxKeys, `must have at most ${metadataLimits.maxKeys} keys`),
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
    v.transform((value) => {
      const digits = numberSource(value);
      return digits === undefined ? value : Number(digits);
    }),
    v.number("must be a whole number of seconds"),
    v.integer(message),
    v.minValue(min, message),
    v.maxValue(max, message),
  );
};

/** What a gateway does with a request that leaves a field out, and which providers it has. */
export interface RequestDefaults {
  /** The first one is the default. */
  readonly providers: readonly string[];
  readonly currency: Currency;
  readonly lifeMs: number;
}

export const createInitRequest = ({ providers, currency, lifeMs }: RequestDefaults) =>
  v.strictObject({
    amount,
    currency: v.optional(
      v.pipe(
        v.picklist(currencies, `must be one of ${currencies.join(", ")}`),
        v.metadata({ default: currency, description: "Not every provider takes every currency." }),
      ),
    ),
    description: v.optional(text(500)),
    webhook_url: v.optional(receiver("HTTPS. Events of this payment are posted here.")),
    webhook_secret: v.optional(
      v.pipe(
        webhookSecret,
        v.description(
          "Signs the webhooks of this payment. `whsec_…` is base64, any other text, but for `enc1.…`, stands for its UTF-8 bytes. Left out: your own secret signs, which the answer shows.",
        ),
      ),
    ),
    metadata: v.optional(metadata),
    return_url: v.optional(v.pipe(webAddress, v.description("A link on the pay page."))),
    expires_in: v.optional(
      v.pipe(
        seconds(60, 2_592_000),
        v.metadata({ default: Math.round(lifeMs / 1000), description: "Seconds until an unpaid payment ends." }),
      ),
    ),
    provider: v.optional(
      v.pipe(
        v.picklist(providers, `is not one of ${providers.join(", ")}`),
        v.metadata({ default: providers[0], description: "How the payer pays." }),
      ),
    ),
  });

export const refundRequest = v.strictObject({
  amount: v.optional(v.pipe(amount, v.description("Left out: all that is left. Otherwise as in a payment."))),
});

const newSecret = v.optional(
  v.pipe(
    webhookSecret,
    v.description(
      "`whsec_…` is base64, any other text, but for `enc1.…`, stands for its UTF-8 bytes. Left out: a random one.",
    ),
  ),
);

export const endpointRequest = v.strictObject({ url: receiver("HTTPS."), secret: newSecret });

/** How long a replaced secret goes on signing beside the new one. */
export const defaultOverlapMs = 86_400_000;

export const rotateRequest = v.strictObject({
  secret: newSecret,
  overlap: v.optional(
    v.pipe(
      seconds(0, 2_592_000),
      v.metadata({
        default: defaultOverlapMs / 1000,
        description: "Seconds during which the former secrets sign too; 0 ends them at once.",
      }),
    ),
  ),
});

const statuses = Object.keys(paymentMoves) as readonly PaymentStatus[];

export const defaultListed = 50;
const maxListed = 100;
const listedMessage = `must be a whole number from 1 to ${maxListed}`;

/** Parameters of a list; others than these are ignored. */
export const listQuery = v.object({
  status: v.optional(v.picklist(statuses, `must be one of ${statuses.join(", ")}`)),
  search: v.optional(
    v.pipe(
      text(500),
      v.description("The whole id or account, or a part of the description or metadata; upper and lower case differ."),
    ),
  ),
  after: v.optional(
    v.pipe(
      v.string(),
      v.regex(/^(?:[0-9]{1,15}\.[A-Za-z0-9_-]{1,64})?$/, 'must be empty or a former "next"'),
      v.description("Empty, or a former `next`."),
    ),
  ),
  limit: v.optional(
    v.pipe(
      v.string(),
      v.regex(/^[1-9]\d{0,8}$/, listedMessage),
      v.transform(Number),
      v.number(),
      v.integer(),
      v.minValue(1, listedMessage),
      v.maxValue(maxListed, listedMessage),
      v.metadata({ default: defaultListed }),
    ),
  ),
});

export const eventsQuery = v.object({
  after: v.optional(
    v.pipe(
      v.string(),
      v.regex(/^[0-9]{0,15}$/, 'must be empty or a former "next"'),
      v.description("Empty, or a former `next`."),
    ),
  ),
});

/** A Structured Field String is quoted; almost everybody sends it bare. Both are the same key. */
export const idempotencyKey = v.pipe(
  v.string(),
  v.transform((header) => header.replace(/^"(.*)"$/, "$1")),
  v.string(),
  v.regex(/^[\x21-\x7e]{1,128}$/, "must have 1 to 128 visible ASCII characters"),
  v.description("Makes the request safe to repeat: same body, same answer. May stand in double quotes."),
);
