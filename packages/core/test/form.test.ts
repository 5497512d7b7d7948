import fc from "fast-check";
import { expect, test } from "vitest";
import { parseForm } from "../src/index.ts";

const plain = (body: string) => JSON.parse(JSON.stringify(parseForm(body)));

test.each([
  ["a=1&b=%D0%B5%2B+x", { a: "1", b: "е+ x" }],
  [
    "leads[add][0][id]=7&leads[add][0][name]=A&leads[add][1][id]=8",
    {
      leads: { add: { 0: { id: "7", name: "A" }, 1: { id: "8" } } },
    },
  ],
  ["leads%5Bstatus%5D%5B0%5D%5Bid%5D=7", { leads: { status: { 0: { id: "7" } } } }],
  ["a[]=x&a[]=y", { a: { 0: "x", 1: "y" } }],
  ["a[1]=x&a[]=y", { a: { 1: "x", 2: "y" } }],
  ["a[5][id]=x&a[][id]=y", { a: { 5: { id: "x" }, 6: { id: "y" } } }],
  ["a=1&a=2", { a: "2" }],
  ["a", { a: "" }],
  ["", {}],
  ["[a]=1", { "[a]": "1" }],
  ["a[b=1", { "a[b": "1" }],
  ["a[b]c=1", { "a[b]c": "1" }],
  ["a[[b]]=1", { "a[[b]]": "1" }],
  ["toString=1", { toString: "1" }],
])("reads %j", (body, form) => {
  expect(plain(body)).toEqual({ ok: true, form });
});

test.each([
  ["__proto__=1", "forbidden_name"],
  ["__proto__[polluted]=1", "forbidden_name"],
  ["a[constructor][prototype][x]=1", "forbidden_name"],
  ["a[b]=1&a=2", "conflict"],
  ["a=2&a[b]=1", "conflict"],
  ["a=&a[b]=1", "conflict"],
  [`a${"[b]".repeat(10)}=1`, "too_deep"],
  ["a[10001]=1", "index_too_large"],
  ["a[10000]=1&a[]=2", "index_too_large"],
  ["a[99999999999999999999]=1", "index_too_large"],
  ["a=1&".repeat(5001), "too_many_fields"],
])("refuses %.40j: %s", (body, reason) => {
  expect(parseForm(body)).toEqual({ ok: false, reason });
});

test("takes bytes and parsed parameters alike", () => {
  const form = { name: "Айгүл" };
  const parameters = new URLSearchParams(form);
  const bytes = new TextEncoder().encode(parameters.toString());
  expect(JSON.stringify(parseForm(bytes))).toBe(JSON.stringify({ ok: true, form }));
  expect(JSON.stringify(parseForm(parameters))).toBe(JSON.stringify({ ok: true, form }));
});

test("gives objects without a prototype", () => {
  const result = parseForm("a[b]=1");
  if (!result.ok) throw new Error(result.reason);
  expect(Object.getPrototypeOf(result.form)).toBeNull();
  expect(Object.getPrototypeOf(result.form.a)).toBeNull();
});

test("whatever a stranger sends, it neither throws nor touches the prototype of objects", () => {
  const part = fc.oneof(
    fc.constantFrom("__proto__", "constructor", "prototype", "", "0", "7", "a", "[", "]"),
    fc.string(),
  );
  const name = fc
    .array(part, { maxLength: 14 })
    .map(([first = "", ...rest]) => first + rest.map((one) => `[${one}]`).join(""));
  const body = fc.array(fc.tuple(fc.oneof(name, fc.string()), fc.string()), { maxLength: 30 });
  fc.assert(
    fc.property(body, (fields) => {
      const before = Object.getOwnPropertyNames(Object.prototype).length;
      parseForm(new URLSearchParams(fields));
      expect(Object.getOwnPropertyNames(Object.prototype).length).toBe(before);
      expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
    }),
    { seed: 20261101, numRuns: 500 },
  );
});

test("keeps every field of a form that has no traps", () => {
  const word = fc.stringMatching(/^[a-z]{1,6}$/).filter((text) => text !== "constructor" && text !== "prototype");
  const path = fc.array(word, { minLength: 3, maxLength: 3 });
  const fields = fc.uniqueArray(fc.tuple(path, fc.string()), { selector: ([parts]) => parts.join("/"), maxLength: 20 });
  fc.assert(
    fc.property(fields, (given) => {
      const body = new URLSearchParams(
        given.map(([[a, b, c], value]) => [`${a}[${b}][${c}]`, value] as [string, string]),
      );
      const result = parseForm(body);
      if (!result.ok) throw new Error(result.reason);
      for (const [parts, value] of given) {
        let node: unknown = result.form;
        for (const part of parts) node = (node as Record<string, unknown>)[part];
        expect(node).toBe(value);
      }
    }),
    { seed: 20261101, numRuns: 200 },
  );
});
