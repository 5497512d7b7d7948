/** `500000n` is `5000.00`. */
export function toDecimalText(minor: bigint): string {
  const digits = minor.toString().padStart(3, "0");
  return `${digits.slice(0, -2)}.${digits.slice(-2)}`;
}

/** `5000.00`, `5000.5` and `5000` to minor units; `undefined` for anything that is not such text. */
export function fromDecimalText(text: string): bigint | undefined {
  const parts = /^(\d{1,13})(?:\.(\d{1,2})0*)?$/.exec(text);
  if (!parts) return undefined;
  return BigInt(`${parts[1]}${(parts[2] ?? "").padEnd(2, "0")}`);
}
