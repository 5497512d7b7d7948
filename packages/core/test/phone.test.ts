import { expect, test } from "vitest";
import { toE164 } from "../src/phone/index.ts";

test.each([
  ["+7 701 123 45 67", "+77011234567"],
  ["8 (701) 123-45-67", "+77011234567"],
  ["77011234567", "+77011234567"],
  ["7011234567", "+77011234567"],
  ["+77011234567", "+77011234567"],
  ["тел.: 8-701-123-45-67", "+77011234567"],
  ["+998 90 123 45 67", "+998901234567"],
  ["+0(000)-000-00-00", undefined],
  ["0000000000", undefined],
  ["12345", undefined],
  ["скрыт", undefined],
  ["", undefined],
  [null, undefined],
  [undefined, undefined],
])("in Kazakhstan %j is %j", (text, expected) => {
  expect(toE164(text, { country: "KZ" })).toBe(expected);
});

test("in Russia a leading 8 is the trunk prefix as well", () => {
  expect(toE164("8 916 123-45-67", { country: "RU" })).toBe("+79161234567");
});
