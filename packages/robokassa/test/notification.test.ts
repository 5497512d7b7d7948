import { expect, test } from "vitest";
import { createRobokassa } from "../src/index.ts";
import { readFields } from "../src/notification.ts";
import { demoShop, liveResult, testResult } from "./shop-fixture.ts";

const robokassa = createRobokassa(demoShop);

test("takes a production notification, with its fields under both names", () => {
  expect(robokassa.verifyResult(liveResult)).toEqual({
    ok: true,
    notification: {
      invId: "146",
      outSum: "1000.000000",
      test: false,
      shp: {},
      shpOrder: undefined,
      outSumCurrency: undefined,
      paymentMethod: "BankCard",
      incCurrLabel: "BankCardPSR",
      incSum: "1000.000000",
      fee: "39.000000",
      email: "buyer@example.com",
    },
  });
});

test("says that a test notification was signed with the test password", () => {
  expect(robokassa.verifyResult(testResult)).toMatchObject({
    ok: true,
    notification: { test: true, email: undefined },
  });
});

test("believes the password, not the field IsTest", () => {
  expect(robokassa.verifyResult(`${liveResult}&IsTest=1`)).toMatchObject({ ok: true, notification: { test: false } });
  expect(robokassa.verifyResult(testResult.replace("IsTest=1", "IsTest=0"))).toMatchObject({
    ok: true,
    notification: { test: true },
  });
});

test("refuses a test notification when the shop has no test passwords", () => {
  const { login, password1, password2 } = demoShop;
  expect(createRobokassa({ login, password1, password2 }).verifyResult(testResult)).toEqual({
    ok: false,
    reason: "bad_signature",
  });
});

const plain = "OutSum=1000.000000&InvId=146&SignatureValue=F56D901DE60F49774AD1AC8F91458650";

test.each([
  ["modern names", plain],
  ["old names", "out_summ=1000.000000&inv_id=146&crc=F56D901DE60F49774AD1AC8F91458650"],
  ["names in lower case", plain.toLowerCase()],
  ["bytes", new TextEncoder().encode(plain)],
  ["a parsed form", new URLSearchParams(plain)],
  ["unknown fields beside", `${plain}&NewField=1&toString=2&__proto__=3`],
])("takes %s", (_case, fields) => {
  expect(robokassa.verifyResult(fields).ok).toBe(true);
});

test.each([
  ["signature of another amount", plain.replace("1000.000000", "1.000000"), "bad_signature", undefined],
  ["the sum rewritten with two decimals", plain.replace("1000.000000", "1000.00"), "bad_signature", undefined],
  ["signature of another number", plain.replace("InvId=146", "InvId=147"), "bad_signature", undefined],
  // md5sum of 1000.000000:146:live-one
  [
    "password 1 in place of password 2",
    plain.replace(/[0-9A-F]{32}/, "dc5e985ae4a007a410d93a8b4e72f0dc"),
    "bad_signature",
    undefined,
  ],
  ["a Shp_ field that was not signed", `${plain}&Shp_user=5`, "bad_signature", undefined],
  ["two different sums", `${plain}&out_summ=1.000000`, "conflicting_fields", "OutSum"],
  ["the same name with two numbers", `${plain}&InvId=147`, "conflicting_fields", "InvId"],
  ["two different signatures", `${plain}&crc=${"0".repeat(32)}`, "conflicting_fields", "SignatureValue"],
  ["no sum", "InvId=146&SignatureValue=00", "missing_field", "OutSum"],
  ["an empty number", "OutSum=1.00&InvId=&SignatureValue=00", "missing_field", "InvId"],
  ["no signature", "OutSum=1.00&InvId=1", "missing_field", "SignatureValue"],
  ["a sum with an exponent", "OutSum=1e3&InvId=1&SignatureValue=00", "malformed_field", "OutSum"],
  ["a negative sum", "OutSum=-1&InvId=1&SignatureValue=00", "malformed_field", "OutSum"],
  ["a number with a line break", `OutSum=1.00&InvId=1%0A&SignatureValue=${"0".repeat(32)}`, "malformed_field", "InvId"],
  ["a number of 20 digits", `OutSum=1.00&InvId=${"9".repeat(20)}&SignatureValue=00`, "malformed_field", "InvId"],
  ["a signature that is not hex", "OutSum=1.00&InvId=1&SignatureValue=OK", "malformed_field", "SignatureValue"],
  ["a field array", "OutSum[]=1.00&InvId[]=1&SignatureValue[]=00", "missing_field", "OutSum"],
  ["nothing", "", "missing_field", "OutSum"],
])("refuses %s", (_case, fields, reason, field) => {
  expect(robokassa.verifyResult(fields)).toEqual({ ok: false, reason, ...(field ? { field } : {}) });
});

test("refuses more fields than any notification has", () => {
  expect(robokassa.verifyResult(plain + "&a=1".repeat(200))).toEqual({ ok: false, reason: "too_many_fields" });
});

test("hashes Shp_ fields as received and hands them out decoded", () => {
  // md5sum of 1000.000000:146:live-two:Shp_name=%D0%92%D0%B0%D1%81%D1%8F; the wire encodes the percent signs again
  const fields =
    "OutSum=1000.000000&InvId=146&SignatureValue=1d4349a48cb00db3e55b06e382f6139c&Shp_name=%25D0%2592%25D0%25B0%25D1%2581%25D1%258F";
  expect(robokassa.verifyResult(fields)).toMatchObject({ ok: true, notification: { shp: { Shp_name: "Вася" } } });
});

test("takes a Shp_ value that came unencoded, as invoices may send it", () => {
  // md5sum of 1000.000000:146:live-two:Shp_name=Вася
  const fields = `OutSum=1000.000000&InvId=146&SignatureValue=69568b79634281108c280c8677206c77&Shp_name=${encodeURIComponent("Вася")}`;
  expect(robokassa.verifyResult(fields)).toMatchObject({ ok: true, notification: { shp: { Shp_name: "Вася" } } });
});

test("sorts Shp_ fields itself, whatever order they came in", () => {
  const fields = "Shp_user=5&OutSum=1000.000000&InvId=146&SignatureValue=7fb3f76d49ca155ead123c852eca92ad&Shp_cart=77";
  expect(robokassa.verifyResult(fields).ok).toBe(true);
});

test("a SuccessURL visit is checked with password 1, and is not taken for a ResultURL", () => {
  // md5sum of 1000.00:146:live-one
  const visit = "OutSum=1000.00&InvId=146&SignatureValue=e6f4fe5aeb84686ce6735b34057c508a&Culture=ru";
  expect(robokassa.verifySuccess(visit)).toMatchObject({ ok: true, notification: { invId: "146", test: false } });
  expect(robokassa.verifyResult(visit)).toEqual({ ok: false, reason: "bad_signature" });
  expect(robokassa.verifySuccess(liveResult)).toEqual({ ok: false, reason: "bad_signature" });
});

test("fields named like members of every object are unknown fields, not conflicting ones", () => {
  expect(readFields("constructor=1&constructor=2&__proto__=1&__proto__=2")).toEqual({
    ok: false,
    reason: "missing_field",
    field: "OutSum",
  });
});
