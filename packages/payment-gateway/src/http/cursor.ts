import { isId } from "../ids.ts";
import type { Payment } from "../payment.ts";

/** Where a list of payments goes on: `<milliseconds>.<id>` of the last one that was shown. */
export const toCursor = ({ createdAt, id }: Pick<Payment, "createdAt" | "id">): string =>
  `${createdAt.getTime()}.${id}`;

/** `undefined` for a text that {@link toCursor} never gave. */
export function readCursor(text: string): Pick<Payment, "createdAt" | "id"> | undefined {
  const [, milliseconds = "", id = ""] = /^(\d{1,15})\.(.+)$/.exec(text) ?? [];
  return isId(id) ? { createdAt: new Date(Number(milliseconds)), id } : undefined;
}
