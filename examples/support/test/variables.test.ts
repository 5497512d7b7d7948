import * as v from "valibot";
import { expect, test } from "vitest";
import { commonVariables, variables } from "../src/index.ts";

const { readVariables } = variables;

const shape = {
  ...commonVariables({ port: 3001, database: "sqlite:./shop.db" }),
  SHOP_LOGIN: variables.text("the login from the cabinet"),
  SHOP_SECRET: variables.secret("a long random text"),
  SHOP_COUNTRY: variables.withDefault(variables.oneOf("ru", "kz"), "ru"),
  SHOP_URL: variables.optional(variables.url("https://shop.example")),
  SHOP_MAP: variables.optional(variables.json(v.record(v.string(), v.string()), '{"new":"C9:NEW"}')),
  SHOP_TOKENS: variables.optional(variables.pairs("shop=token,other=token")),
  SHOP_FROM: variables.optional(variables.instant()),
  SHOP_TEST: variables.flag(),
};
const good = { SHOP_LOGIN: "demo", SHOP_SECRET: "long enough" };

test("reads values and fills in defaults", () => {
  const result = readVariables(shape, {
    ...good,
    SHOP_TOKENS: "a=x==,b=y",
    SHOP_FROM: "2026-11-01T00:00:00+05:00",
    SHOP_TEST: "1",
  });
  expect(result).toMatchObject({
    ok: true,
    values: {
      PORT: 3001,
      HOST: "127.0.0.1",
      DATABASE_URL: "sqlite:./shop.db",
      SHOP_COUNTRY: "ru",
      SHOP_TOKENS: new Map([
        ["a", "x=="],
        ["b", "y"],
      ]),
      SHOP_FROM: new Date("2026-10-31T19:00:00Z"),
      SHOP_TEST: true,
    },
  });
});

test.each([
  ["missing", { SHOP_LOGIN: undefined }, "SHOP_LOGIN is missing; set it to the login from the cabinet"],
  ["empty", { SHOP_LOGIN: "  " }, "SHOP_LOGIN is missing; set it to the login from the cabinet"],
  [
    "a placeholder",
    { SHOP_LOGIN: "replace-me" },
    "SHOP_LOGIN still holds the placeholder of .env.example; set it to the login from the cabinet",
  ],
  ["too short", { SHOP_SECRET: "short" }, "SHOP_SECRET is shorter than 8 characters; set it to a long random text"],
  ["not one of the choices", { SHOP_COUNTRY: "by" }, "SHOP_COUNTRY must be ru or kz"],
  [
    "not an address",
    { SHOP_URL: "shop.example" },
    "SHOP_URL is not an http(s) address; set it to https://shop.example",
  ],
  ["not JSON", { SHOP_MAP: "{" }, 'SHOP_MAP is not JSON; set it to {"new":"C9:NEW"}'],
  [
    "JSON of another shape",
    { SHOP_MAP: '{"new":1}' },
    /^SHOP_MAP is wrong at "new": .+; set it to \{"new":"C9:NEW"\}$/,
  ],
  [
    "an instant without a zone",
    { SHOP_FROM: "2026-11-01T00:00:00" },
    /^SHOP_FROM is not an ISO 8601 instant with a zone/,
  ],
  ["a flag that is neither", { SHOP_TEST: "yes" }, "SHOP_TEST must be 1 or 0"],
  ["a port out of range", { PORT: "70000" }, "PORT must be a whole number from 0 to 65535; set it to a free port"],
  ["an unknown database", { DATABASE_URL: "mongodb://x" }, /^DATABASE_URL is not a known database address/],
  [
    "a key of the wrong length",
    { ENCRYPTION_KEYS: "k1:c2hvcnQ=" },
    'ENCRYPTION_KEYS key "k1" is not 32 bytes of base64',
  ],
])("names the variable and the fix when it is %s", (_case, changes, problem) => {
  const result = readVariables(shape, { ...good, ...changes });
  if (result.ok) throw new Error("accepted");
  expect(result.problems).toHaveLength(1);
  expect(result.problems[0]).toEqual(typeof problem === "string" ? problem : expect.stringMatching(problem));
});

test("never shows the value of a variable", () => {
  const result = readVariables(shape, {
    SHOP_LOGIN: "",
    SHOP_SECRET: "s3cret!",
    SHOP_URL: "s3cret!",
    SHOP_MAP: "s3cret!",
    PORT: "s3cret!",
  });
  expect(JSON.stringify(result)).not.toContain("s3cret!");
});

test("tells all problems at once", () => {
  const result = readVariables(shape, { PORT: "x" });
  expect(result).toMatchObject({
    ok: false,
    problems: [
      expect.stringMatching(/^PORT /),
      expect.stringMatching(/^SHOP_LOGIN /),
      expect.stringMatching(/^SHOP_SECRET /),
    ],
  });
});
