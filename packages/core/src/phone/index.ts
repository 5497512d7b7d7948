import { type CountryCode, parsePhoneNumberFromString } from "libphonenumber-js/max";

/**
 * A phone as E.164 (`+77011234567`), or `undefined` when the text holds no phone that can exist: hidden ones such as
 * `+0(000)-000-00-00`, short ones, texts.
 *
 * Numbers of Kazakhstan and Russia share the country code 7; a leading 8 of 11 digits is their trunk prefix, and 10
 * digits are a number without a code.
 */
export function toE164(
  text: string | null | undefined,
  { country }: { readonly country: CountryCode },
): string | undefined {
  if (!text) return undefined;
  const digits = text.replace(/\D/g, "");
  if (/^0*$/.test(digits)) return undefined;
  const isShared7 = country === "KZ" || country === "RU";
  const bare = !text.trim().startsWith("+");
  const local = isShared7 && bare && /^[78]?\d{10}$/.test(digits) ? `+7${digits.slice(-10)}` : text;
  const parsed = parsePhoneNumberFromString(local, country);
  return parsed?.isPossible() ? parsed.number : undefined;
}
