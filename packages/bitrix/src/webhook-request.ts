import { ConfigError, defineHandler, type FetchHandler, type Logger } from "@orderbridge/core";
import { verifyHmac, verifySharedSecret } from "@orderbridge/core/signature";
import * as v from "valibot";
import { InputError } from "./errors.ts";

/** Secrets in force; several while one is being replaced. */
function checkSecrets(secrets: readonly string[]): void {
  if (secrets.length === 0 || secrets.some((secret) => secret.length < 8)) {
    throw new ConfigError("secrets: give at least one, each of at least 8 characters");
  }
}

/**
 * The shared secret in `X-Webhook-Secret` and, when it is sent, the hex HMAC-SHA256 of the body in `X-Webhook-Signature`.
 * Compared in constant time.
 */
function isAuthentic(
  headers: Headers,
  body: Uint8Array,
  { secrets, logger }: { readonly secrets: readonly string[]; readonly logger: Pick<Logger, "warn"> },
): boolean {
  const shared = verifySharedSecret(headers.get("x-webhook-secret"), secrets);
  const signature = headers.get("x-webhook-signature");
  const signed = signature === null ? undefined : verifyHmac({ secrets, body, signature });
  if (shared.ok && (signed === undefined || signed.ok)) return true;
  const reason = !shared.ok ? `secret ${shared.reason}` : `signature ${signed?.ok === false ? signed.reason : ""}`;
  logger.warn("bitrix: a webhook was refused", { reason });
  return false;
}

/**
 * A webhook of the site: the secret, then a JSON body that fits the schema, then `receive`. 401 for a wrong secret, 422 that
 * names the field, 413 above 64 KiB.
 */
export function createWebhookReceiver<Schema extends v.GenericSchema>({
  secrets,
  logger,
  schema,
  receive,
}: {
  readonly secrets: readonly string[];
  readonly logger: Logger;
  readonly schema: Schema;
  readonly receive: (body: v.InferOutput<Schema>) => Promise<Response>;
}): FetchHandler {
  checkSecrets(secrets);
  return defineHandler(
    async (request, bytes) => {
      if (!isAuthentic(request.headers, bytes, { secrets, logger })) {
        return json(401, { detail: "Invalid webhook secret" });
      }
      let body: v.InferOutput<Schema>;
      try {
        body = readJson(bytes, schema);
      } catch (error) {
        if (!(error instanceof InputError)) throw error;
        return json(422, { detail: error.message, field: error.field });
      }
      return receive(body);
    },
    { logger, maxBodyBytes: 65_536 },
  );
}

/** A JSON body that fits a schema. @throws {InputError} names the field. */
export function readJson<Schema extends v.GenericSchema>(body: Uint8Array, schema: Schema): v.InferOutput<Schema> {
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch {
    throw new InputError("body", "must be JSON in UTF-8");
  }
  const parsed = v.safeParse(schema, json);
  if (parsed.success) return parsed.output;
  const issue = parsed.issues[0];
  const field = v.getDotPath(issue) ?? "body";
  throw new InputError(field, issue.input === undefined ? "is missing" : issue.message);
}

/** Text that every database keeps as it is. */
export const textSchema = v.pipe(
  v.string("must be text"),
  v.check((text) => !text.includes("\0") && text.isWellFormed(), "must not hold NUL or half of a surrogate pair"),
);

/** A vendor's id: digits as text, or a whole number. */
export const idSchema = v.pipe(
  v.union(
    [
      v.pipe(v.number(), v.safeInteger("must be a whole number"), v.minValue(1, "must be positive")),
      v.pipe(v.string(), v.regex(/^[1-9]\d{0,18}$/, "must be digits")),
    ],
    "must be a positive whole number",
  ),
  v.transform(String),
);

/** A version that the site counts up. */
export const versionSchema = v.pipe(
  v.union([v.number(), v.pipe(v.string(), v.regex(/^\d{1,15}$/, "must be digits"))], "must be a whole number"),
  v.transform(Number),
  v.safeInteger("must be a whole number"),
  v.minValue(0, "must not be negative"),
);

/** An instant with a zone, ISO 8601. */
export const instantSchema = v.pipe(
  v.string("must be an instant with a zone, e.g. 2026-11-01T12:00:00+05:00"),
  v.regex(
    /^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:?\d\d)$/,
    "must be an instant with a zone, e.g. 2026-11-01T12:00:00+05:00",
  ),
  v.transform((text) => new Date(text.replace(/([+-]\d\d)(\d\d)$/, "$1:$2"))),
  v.check((date) => !Number.isNaN(date.getTime()), "is not a real date"),
);

/** `true`, `1` and `Y` are yes: PHP code sends any of them. */
export const yesSchema = v.pipe(
  v.union([v.boolean(), v.picklist([0, 1, "0", "1", "Y", "N"])], "must be true or false"),
  v.transform((value) => value === true || value === 1 || value === "1" || value === "Y"),
);

export const json = (status: number, body: unknown): Response => Response.json(body, { status });
