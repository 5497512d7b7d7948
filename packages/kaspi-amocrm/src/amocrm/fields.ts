import type * as v from "valibot";
import type { contactSchema } from "./schemas.ts";

export interface FieldValue {
  readonly fieldId?: string | undefined;
  readonly fieldCode?: string | undefined;
  readonly values: readonly string[];
}

export const fieldToWire = ({ fieldId, fieldCode, values }: FieldValue): Record<string, unknown> => ({
  ...(fieldId === undefined ? { field_code: fieldCode } : { field_id: Number(fieldId) }),
  values: values.map((value) => ({ value })),
});

/** `custom_fields_values`: `null` when there are none. */
export const readFields = (fields: v.InferOutput<typeof contactSchema>["custom_fields_values"]): FieldValue[] =>
  (fields ?? []).map(({ field_id, field_code, values }) => ({
    fieldId: field_id ?? undefined,
    fieldCode: field_code ?? undefined,
    values: (values ?? []).flatMap(({ value }) => (value === null || value === undefined ? [] : [String(value)])),
  }));

/** amoCRM counts seconds. */
export const instant = (seconds: number | null | undefined): Date | undefined =>
  typeof seconds === "number" ? new Date(seconds * 1000) : undefined;
