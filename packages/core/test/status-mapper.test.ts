import fc from "fast-check";
import { describe, expect, expectTypeOf, test } from "vitest";
import { ConfigError, createStatusMapper } from "../src/index.ts";

const options = {
  pairs: [
    ["N", "new"],
    ["PD", "paid"],
    ["RF", "cancelled"],
    ["UN", "cancelled"],
  ],
  back: { cancelled: "UN" },
} as const;

describe("a status mapper", () => {
  const mapper = createStatusMapper(options);

  test.each([
    ["N", { status: "new" }],
    ["RF", { status: "cancelled" }],
    ["UN", { status: "cancelled" }],
    ["n", { unmapped: "n" }],
    [" N", { unmapped: " N" }],
    ["", { unmapped: "" }],
    ["toString", { unmapped: "toString" }],
    ["__proto__", { unmapped: "__proto__" }],
  ])("takes the code %j for %j", (code, expected) => {
    expect(mapper.map(code)).toEqual(expected);
  });

  test.each([
    ["new", { code: "N" }],
    ["cancelled", { code: "UN" }],
    ["delivered", { unmapped: "delivered" }],
    ["constructor", { unmapped: "constructor" }],
  ])("sends the status %j back as %j", (status, expected) => {
    expect(mapper.unmap(status)).toEqual(expected);
  });

  test("lists its codes and statuses, each once", () => {
    expect(mapper.codes).toEqual(["N", "PD", "RF", "UN"]);
    expect(mapper.statuses).toEqual(["new", "paid", "cancelled"]);
  });
});

test.each([
  [
    "a code given twice",
    {
      pairs: [
        ["N", "new"],
        ["N", "paid"],
      ],
    },
    'code "N" is given twice',
  ],
  ["an empty code", { pairs: [["", "new"]] }, "is empty"],
  ["an empty status", { pairs: [["N", ""]] }, "is empty"],
  [
    "a status with two codes and no way back",
    {
      pairs: [
        ["RF", "cancelled"],
        ["UN", "cancelled"],
      ],
    },
    "one of RF, UN",
  ],
  ["a way back that is not a code of the status", { ...options, back: { cancelled: "N" } }, "use one of RF, UN"],
  ["a way back of a status that no code leads to", { ...options, back: { cancelled: "UN", lost: "N" } }, '"lost"'],
])("refuses %s at creation", (_case, wrong, message) => {
  // biome-ignore lint/suspicious/noExplicitAny: what the types forbid is checked at run time as well
  const create = () => createStatusMapper(wrong as any);
  expect(create).toThrow(ConfigError);
  expect(create).toThrow(message);
});

test("keeps every code, and every status through its way back", () => {
  const name = fc.string({ minLength: 1, maxLength: 4 });
  const table = fc.uniqueArray(fc.tuple(name, name), { minLength: 1, maxLength: 30, selector: ([code]) => code });
  fc.assert(
    fc.property(table, (pairs) => {
      const back = Object.fromEntries(pairs.map(([code, status]) => [status, code])); // the last one of each status
      // biome-ignore lint/suspicious/noExplicitAny: the table is not known to the types
      const mapper = createStatusMapper({ pairs, back } as any);
      for (const [code, status] of pairs) expect(mapper.map(code)).toEqual({ status });
      for (const status of mapper.statuses) {
        const returned = mapper.unmap(status) as { readonly code: string };
        expect(mapper.map(returned.code)).toEqual({ status });
      }
      expect(new Set(mapper.codes).size).toBe(pairs.length);
    }),
    { seed: 20261101, numRuns: 300 },
  );
});

describe("types", () => {
  const mapper = createStatusMapper(options);

  test("know the codes and the statuses", () => {
    expectTypeOf(mapper.map("N")).toEqualTypeOf<
      { readonly status: "new" | "paid" | "cancelled" } | { readonly unmapped: string }
    >();
    expectTypeOf(mapper.unmap("new")).toEqualTypeOf<
      { readonly code: "N" | "PD" | "RF" | "UN" } | { readonly unmapped: string }
    >();
  });

  test("ask for the way back exactly where it is open", () => {
    createStatusMapper({ pairs: [["N", "new"]] });
    expect(() => {
      // @ts-expect-error two codes lead to "cancelled"
      createStatusMapper({
        pairs: [
          ["RF", "cancelled"],
          ["UN", "cancelled"],
        ],
      });
    }).toThrow(ConfigError);
    expect(() => {
      // @ts-expect-error "N" does not lead to "cancelled"
      createStatusMapper({ ...options, back: { cancelled: "N" } });
    }).toThrow(ConfigError);
  });
});
