import { expect, test } from "vitest";
import { isId, randomId } from "../src/ids.ts";

test("no id begins with a dash, which a command line would take for an option", () => {
  const ids = Array.from({ length: 2_000 }, () => randomId());
  expect(ids.filter((id) => id.startsWith("-") || !isId(id) || id.length < 22)).toEqual([]);
  expect(new Set(ids).size).toBe(2_000);
});
