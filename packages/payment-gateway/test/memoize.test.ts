import { expect, test } from "vitest";
import { memoize } from "../src/memoize.ts";

test("what was made for the last keys is not made again, and older ones are forgotten", () => {
  const made: string[] = [];
  const upper = memoize(2, (key) => {
    made.push(key);
    return key.toUpperCase();
  });
  expect(["a", "b", "a", "b"].map(upper)).toEqual(["A", "B", "A", "B"]);
  expect(made).toEqual(["a", "b"]);
  expect(["c", "a", "d", "e", "b"].map(upper)).toEqual(["C", "A", "D", "E", "B"]);
  expect(made).toEqual(["a", "b", "c", "d", "e", "b"]); // `a` was asked for in between, `b` four keys ago
});

test("a failure is not remembered", () => {
  let isBroken = true;
  const make = memoize(2, () => {
    if (isBroken) throw new Error("broken");
    return 1;
  });
  expect(() => make("a")).toThrow("broken");
  isBroken = false;
  expect(make("a")).toBe(1);
});
