/** Names of fields, query parameters and headers whose values never reach a log or an error. Matched without case. */
const secretNames =
  /pass(word|wd)?\d?$|secret|token|authorization|^auth$|api[-_]?key|signature|^crc$|cookie|credential|^code$|phone|e-?mail|^key$|private/i;

/** Longer texts are cut: nobody reads on, and the time that the patterns take stays bounded whatever a stranger sends. */
const maxLength = 2000;

/** Every repetition that something must follow is bounded, else a hostile text takes quadratic time or worse. */
const patterns: readonly (readonly [RegExp, string])[] = [
  // A Bitrix24 webhook address is the password itself; so is that of amoCRM's webhooks.
  [/\brest\/((?:api\/)?\d+)\/[^/\s"']+/gi, "rest/$1/[redacted]"],
  [/(\/webhook\/)[^/\s"'?#]+/gi, "$1[redacted]"],
  [/\b([a-z][a-z0-9+.-]{0,30}:\/\/)[^\s/?#"']+@/gi, "$1[redacted]@"],
  [
    /([?&][^=&?\s"']{0,64}(?:token|secret|pass|auth|key|sign|code|phone|mail)[^=&?\s"']{0,64}=)[^&\s"']*/gi,
    "$1[redacted]",
  ],
  // The rest of a header's line belongs to it: Authorization: Token …, Cookie: a=…; b=…
  [
    /((?:authorization|cookie)\\{0,8}["']?\s*[=:]\s*)(?:\\{1,8}"[^"\\]*(?:\\{1,8}"|$)|"[^"]*(?:"|$)|'[^']*(?:'|$)|[^\r\n\\}]*)/gi,
    "$1[redacted]",
  ],
  // token=…, "access_token": "…", and the same as JSON in a text: \"access_token\":\"…\"
  [
    /((?:token|secret|pass(?:w(?:or)?d)?\d?|api[-_]?key|private[-_]?key|encryption[-_]?keys|credentials?|signature|\bcrc)\\{0,8}["']?\s*[=:]\s*)(?:(?:Bearer|Basic|Digest)\s+)?(\\{1,8}"[^"\\]*(?:\\{1,8}"|$)|"[^"]*(?:"|$)|'[^']*(?:'|$)|[^\s&"',;}\])]+)/gi,
    "$1[redacted]",
  ],
  [/\bBearer\s+[\w.~+/=-]+/gi, "Bearer [redacted]"],
  [/\bwh(?:sec|sk)_[\w+/=-]+/g, "[redacted]"],
  [/\beyJ[\w-]+\.[\w-]+\.[\w-]*/g, "[redacted]"],
  // Phones of Kazakhstan and Russia, with and without separators; not the digits of a hexadecimal id.
  [/(?<![\da-fA-F.])(?:\+7|8|7)[\s(-]*\d{3}[\s)-]*\d{3}[\s-]*\d{2}[\s-]*\d{2}(?!\d)/g, "[phone]"],
  [/[\w.+-]{1,64}@[\w-]+\.[\w.-]+/g, "[email]"],
];

/** Text without tokens, credentials in addresses, phones and e-mails; at most its first 2000 characters. */
export function redactText(text: string): string {
  let redacted = text.length > maxLength ? cut(text) : text;
  for (const [pattern, replacement] of patterns) redacted = redacted.replace(pattern, replacement);
  return text.length > maxLength ? `${redacted}…` : redacted;
}

/** Without the word or number that stands at the cut: half a secret is not known as one. */
function cut(text: string): string {
  let end = maxLength;
  while (end > maxLength - 300 && /[^\s"',&]/.test(text.charAt(end))) end--;
  while (end > maxLength - 300 && /[\d\s()+-]/.test(text.charAt(end - 1))) end--;
  return text.slice(0, end);
}

/** A copy for logs: values under secret names are dropped, texts are redacted, depth and length are bounded. */
export function redact(value: unknown, depth = 6): unknown {
  if (typeof value === "string") return redactText(value);
  if (typeof value === "bigint") return redactText(value.toString());
  if (typeof value === "number") return redactText(String(value)) === String(value) ? value : redactText(String(value));
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof Date) return value;
  if (value instanceof Error) return { name: value.name, message: redactText(value.message) };
  if (depth === 0) return "[deep]";
  if (Array.isArray(value)) return value.slice(0, 100).map((item) => redact(item, depth - 1));
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [
      name,
      secretNames.test(name) ? "[redacted]" : redact(field, depth - 1),
    ]),
  );
}
