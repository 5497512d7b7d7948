/** Remembers what `make` gave for the keys of late: at least the last `size` of them, never more than twice as many. */
export function memoize<Value>(size: number, make: (key: string) => Value): (key: string) => Value {
  let young = new Map<string, Value>();
  let old = young;
  return (key) => {
    const known = young.get(key);
    if (known !== undefined) return known;
    const value = old.get(key) ?? make(key);
    if (young.size >= size) {
      old = young;
      young = new Map();
    }
    young.set(key, value);
    return value;
  };
}
