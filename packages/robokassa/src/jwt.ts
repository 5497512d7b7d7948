import { createHmac } from "node:crypto";
import type { Algorithm } from "./signature.ts";

/**
 * A JWT as Robokassa's services want it: base64url without padding, signed by the raw HMAC of the algorithm that the
 * header names, MD5 included. Generic packages know no MD5.
 *
 * @param json Text of the payload, taken as it is: amounts keep their digits.
 */
export function encodeJwt(
  json: string,
  { alg, algorithm, key }: { readonly alg: string; readonly algorithm: Algorithm; readonly key: string },
): string {
  const segment = (text: string): string => Buffer.from(text).toString("base64url");
  const text = `${segment(JSON.stringify({ alg, typ: "JWT" }))}.${segment(json)}`;
  return `${text}.${createHmac(algorithm, key).update(text).digest("base64url")}`;
}
