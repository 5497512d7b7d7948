import { ConfigError } from "@orderbridge/core";
import { describe, expect, test } from "vitest";
import { sortShp } from "../src/shp.ts";
import { checkAlgorithm, sign, signatureBase } from "../src/signature.ts";
import { availableDigests, type ForeignAlgorithm, foreignDigests } from "./foreign.ts";

/** Published by other projects: the FAQ and tests of Python, Go and PHP packages for Robokassa (read 2025-11 to 2026-08). */
const published: readonly (readonly [string, ForeignAlgorithm, string, string])[] = [
  ["V2", "md5", "myMerchantLogin:1000:0:my_first_secret_password", "abd49d48d09a4ad6e373d3bfabc0051e"],
  [
    "V3",
    "md5",
    "myMerchantLogin:1000:0:my_first_secret_password:shp_customer_id=s8d92378:shp_product_id=a9902187-44f1-4b08-83d0-4944f36c2bfe",
    "f5ed8acce2768d062817733feaff8b23",
  ],
  [
    "V4",
    "md5",
    "robokassa:10:1234829:https%3A%2F%2Ftest.test%2Frobokassa:password1",
    "77b1058f37266e18ea2cba314c59f2c7",
  ],
  ["V5", "md5", "demo:2900.00:1001:pass1", "ab652b7b36ba1b702a88c3b7aa18d7ff"],
  ["V6", "md5", "demo:99.90:1001:secret1:Shp_item=digital", "6f3ff72da89c99859c09fac8b1b61cb5"],
  [
    "V7",
    "md5",
    "demo:8.96:12345:%7B%22items%22%3A%5B%7B%22name%22%3A%22product%22%2C%22quantity%22%3A1%2C%22sum%22%3A8.96%2C%22tax%22%3A%22none%22%7D%5D%7D:https://example.com/success:POST:https://example.com/fail:GET:secret1:Shp_item=digital",
    "4ec77aca3fd8a369fdaff8c2975daa94",
  ],
  ["V8", "md5", "demo:1001:secret2", "1d0bb6fc90e81942e833f9fb4bdf0751"],
  ["V9", "md5", "login:5:9:p1:Shp_order=abc+1", "46e153d00db13ba3848be7d08f1cf62f"],
  ["V10", "md5", "login:5:154:p1", "ea9bd729a4456cfbfb91294b8e2781d6"],
];

/** Computed with md5sum and openssl for an invented shop. */
const derived: readonly (readonly [string, ForeignAlgorithm, string, string])[] = [
  ["X1", "md5", "1000.000000:146:live-two", "F56D901DE60F49774AD1AC8F91458650"],
  ["X2", "ripemd160", "1000.000000:146:live-two", "1DE4781D5BFF4F445157CD8AA9B846B70043ACF7"],
  ["X3", "sha1", "1000.000000:146:live-two", "9D1EF50BE0CDF64555704D96B4083499B3CBEB10"],
  ["X4", "sha256", "1000.000000:146:live-two", "6D532DBA1EB6DD8778F727FB4D2F6480E4277C34AE1C2BE77920DF0E16074E3D"],
  [
    "X5",
    "sha384",
    "1000.000000:146:live-two",
    "5D525153F8BEB0B1339A2CF9944975574BE36B65477DD8BB180FCF9ACE65E4613CDA88AC319C3F41A41689B88EDE3B15",
  ],
  [
    "X6",
    "sha512",
    "1000.000000:146:live-two",
    "1DF7225E61AE4503A8B76A74D541C8C3BDE49ED72B303535D552DD3A97AB0D4A05CB27E7ADD6BE39CF90A4761336E68EA04DF13710E2149645FE6BBF271C2C36",
  ],
  ["X7", "md5", "1000.00:146:try-two", "ff3b04586235329cf11828144874438d"],
  ["X8", "md5", "1000.00:146:live-two", "dbe260a4cd4a9b27fc84c9ef90ead00f"],
  ["X9", "md5", "1000.00:146:live-one", "e6f4fe5aeb84686ce6735b34057c508a"],
  ["X10", "md5", "demo-shop:1000.00:146:live-one", "8a875f1aabd88bf5a41fc286f54b9f15"],
  ["X11", "md5", "demo-shop:1000.00::live-one", "42e24c553571a8b70f1df16e1b5eba78"],
  ["X12", "md5", "demo-shop:1000.00:146:try-one", "c31c1d85c152e27ead982f2dda974ec2"],
  ["X13", "md5", "demo-shop:1000.00:146:true:live-one", "67f8947c3b390ff3b4cbbc3e16074bc4"],
  ["X14", "md5", "demo-shop::146:live-one", "0aca264c2162699055080b750f3fb31f"],
  ["X15", "md5", "demo-shop:146:live-two", "0993b000ebdd9d4d71276b9052c8dfbe"],
  ["X16", "md5", "demo-shop:1000.00:146:https://shop.example/r2:live-one", "d63bdfd57b9a604820e66f161d1a82b9"],
  ["X17", "md5", "demo-shop:1000.00:146:https%3A%2F%2Fshop.example%2Fr2:live-one", "fa8c59362b4a95c796c2206020e66f7f"],
  ["X18", "md5", "1000.000000:146:live-two:Shp_cart=77:Shp_user=5", "7fb3f76d49ca155ead123c852eca92ad"],
  ["X19", "md5", "1000.000000:146:live-two:Shp_name=%D0%92%D0%B0%D1%81%D1%8F", "1d4349a48cb00db3e55b06e382f6139c"],
  ["X20", "md5", "1000.000000:146:live-two:Shp_name=Вася", "69568b79634281108c280c8677206c77"],
  ["X21", "md5", "demo-shop:77010000000:Test 146:live-one", "3c8d0b3e04b500e992d8d7dd0381bc69"],
  ["X22", "md5", '{"outAmount":1000}live-one', "59ca41f88f77924fa3d6a36523cabd6e"],
];

describe.each([...published, ...derived])("vector %s", (_id, algorithm, base, digest) => {
  test("is what sign gives", () => {
    expect(sign(base, algorithm)).toBe(digest.toLowerCase());
  });

  test.each(availableDigests())("is what %s gives", (program) => {
    const foreign = foreignDigests[program](algorithm, base);
    if (foreign !== undefined) expect(foreign).toBe(digest.toLowerCase());
  });
});

test("joins parts with colons; an empty part keeps its colon, an absent one takes it away", () => {
  expect(signatureBase(["demo-shop", "1000.00", "", undefined, "live-one"])).toBe("demo-shop:1000.00::live-one");
  expect(signatureBase(["1000.000000", "146", "live-two"], ["Shp_cart=77", "Shp_user=5"])).toBe(
    "1000.000000:146:live-two:Shp_cart=77:Shp_user=5",
  );
});

// md5 of `L:1.00:1:P:` and the pairs, by md5sum.
test.each([
  ["pair", ["Shp_a=x", "Shp_a1=y"], "9024251dfa8b3f8dde7f1e504171921f"],
  ["name", ["Shp_a1=y", "Shp_a=x"], "1a0f07d3ac397198604db9753d4b74bc"],
  ["name", ["Shp_c=y", "shp_b=x"], "74251c394a19627bffa8216f02aeb91e"],
  ["pair", ["shp_b=x", "Shp_c=y"], "4e4b80b459fdefe207e40892111ae34a"],
] as const)("sorts Shp_ fields by %s: %s", (order, texts, digest) => {
  const pairs = texts.map((text) => text.split("=") as [string, string]);
  expect(sign(signatureBase(["L", "1.00", "1", "P"], sortShp(pairs, order)), "md5")).toBe(digest);
});

test.each(["MD5", "sha3", "", "__proto__"])("refuses the algorithm %j instead of falling back to MD5", (name) => {
  expect(() => checkAlgorithm(name)).toThrow(ConfigError);
});
