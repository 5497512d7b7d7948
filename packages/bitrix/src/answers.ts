import { ApiError, ResponseShapeError, SdkError } from "@orderbridge/core";
import * as v from "valibot";
import type { Parameter, Parameters } from "./parameters.ts";

/** Ids are text in `crm.deal` and `crm.contact`, numbers in `crm.item`, `sale` and `catalog`. */
export const idText = v.pipe(v.union([v.number(), v.string()]), v.transform(String));

/** Text that may be absent or null. */
export const optionalText = v.fallback(
  v.pipe(
    v.nullish(v.string()),
    v.transform((text) => text ?? undefined),
  ),
  undefined,
);

export const optionalId = v.fallback(
  v.pipe(
    v.nullish(idText),
    v.transform((id) => id ?? undefined),
  ),
  undefined,
);

/** `Y` and `N`, or a boolean. */
export const yes = v.fallback(
  v.pipe(
    v.unknown(),
    v.transform((value) => value === "Y" || value === true),
  ),
  false,
);

/** Decimal text without trailing zeros after the second decimal: `1000.00`, also of `1000`, `1000.5` and `1000.000000`. */
export const decimalText = v.pipe(
  v.union([v.number(), v.string()]),
  v.transform((value) => String(value)),
  v.regex(/^-?\d+(\.\d+)?$/),
  v.transform((text) => {
    const [whole, decimals = ""] = text.split(".");
    return `${whole}.${decimals.replace(/0+$/, "").padEnd(2, "0")}`;
  }),
);

/** @throws {ResponseShapeError} names the places that do not fit. The call ran. */
export function readAnswer<Schema extends v.GenericSchema>(
  schema: Schema,
  value: unknown,
  method: string,
): v.InferOutput<Schema> {
  const parsed = v.safeParse(schema, value);
  if (parsed.success) return parsed.output;
  throw shapeError(
    method,
    parsed.issues.map((issue) => v.getDotPath(issue) ?? "(root)"),
  );
}

export const shapeError = (method: string, paths: readonly string[]): ResponseShapeError =>
  new ResponseShapeError(`bitrix: ${method} answered an unexpected shape at ${paths.slice(0, 5).join(", ")}`, {
    vendor: "bitrix",
    status: 200,
    paths,
    outcome: "executed",
  });

export const isRefusal = (error: unknown, codes: readonly string[]): boolean =>
  error instanceof ApiError && error.outcome === "refused" && codes.includes(error.vendorCode ?? "");

const mayHaveRun = (error: unknown): boolean =>
  SdkError.isInstance(error) && (error.outcome === "unknown" || error.outcome === "executed");

/** A write whose reply was lost is settled by a look; it is not repeated. */
export async function settle<Entity>({
  write,
  look,
}: {
  readonly write: () => Promise<Entity>;
  /** What the write would have left; `undefined`: it is not there. */
  readonly look: () => Promise<Entity | undefined>;
}): Promise<Entity> {
  try {
    return await write();
  } catch (error) {
    if (!mayHaveRun(error)) throw error;
    // When the look fails too, the write's error stays: it says that the write may have run, the look's would deny it.
    const written = await look().catch(() => undefined);
    if (written !== undefined) return written;
    throw error;
  }
}

/**
 * Looks before it creates, and again when it is not known whether the creation ran.
 *
 * @throws {ResponseShapeError} when the new entity came back without what it is looked for by: the next look would not
 *   find it, and each call would create one more.
 */
export async function createOnce<Entity extends { readonly fields: Readonly<Record<string, unknown>> }>({
  method,
  match,
  find,
  create,
}: {
  /** Of the creation, for the error. */
  readonly method: string;
  /** Fields that the look goes by. */
  readonly match: Parameters;
  readonly find: () => Promise<Entity | undefined>;
  readonly create: () => Promise<Entity>;
}): Promise<Entity> {
  async function write(): Promise<Entity> {
    const created = await create();
    if (!holds(created.fields, match)) throw shapeError(method, Object.keys(match));
    return created;
  }
  return (await find()) ?? settle({ write, look: find });
}

/** Whether the row has the wanted values: a filter on a field that does not exist may be ignored. */
export const holds = (row: Readonly<Record<string, unknown>>, wanted: Parameters): boolean =>
  Object.entries(wanted).every(([name, value]) => String(row[name] ?? "") === String(value));

/** A filter for exactly these values. */
export const equalTo = (wanted: Parameters): Parameters =>
  Object.fromEntries(Object.entries(wanted).map(([name, value]): [string, Parameter] => [`=${name}`, value]));
