import { createDecipheriv } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ConfigError } from "../src/index.ts";
import { createCipher, createKyselyStorage, type Database, openDatabase } from "../src/kysely/index.ts";

const oldKey = "2025:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const newKey = "2026:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=";

describe("a cipher", () => {
  const cipher = createCipher({ keys: newKey });

  test("opens what it sealed, and seals the same text differently each time", () => {
    const sealed = ["Айгүл", "Айгүл"].map((text) => cipher.encrypt(text, "token/a"));
    expect(sealed[0]).not.toBe(sealed[1]);
    for (const one of sealed) expect(cipher.decrypt(one, "token/a")).toBe("Айгүл");
  });

  test("writes AES-256-GCM: nonce, tag, text, with the place as associated data", () => {
    const bytes = Buffer.from(cipher.encrypt("secret", "token/a").replace("enc1.2026.", ""), "base64url");
    const decipher = createDecipheriv("aes-256-gcm", Buffer.from(newKey.slice(5), "base64"), bytes.subarray(0, 12));
    decipher.setAAD(Buffer.from("token/a")).setAuthTag(bytes.subarray(12, 28));
    expect(decipher.update(bytes.subarray(28), undefined, "utf8") + decipher.final("utf8")).toBe("secret");
  });

  test("does not open what was moved to another place or changed", () => {
    const sealed = cipher.encrypt("secret", "token/a");
    const changed = sealed.slice(0, -1) + (sealed.endsWith("A") ? "Q" : "A");
    expect(() => cipher.decrypt(sealed, "token/b")).toThrow('token/b does not open with the key "2026"');
    expect(() => cipher.decrypt(`${changed}AAAA`, "token/a")).toThrow("token/a does not open");
    expect(() => cipher.decrypt("enc1.2026.", "token/a")).toThrow("token/a does not open");
  });

  test("names the key that is missing", () => {
    const sealed = createCipher({ keys: oldKey }).encrypt("secret", "token/a");
    expect(() => cipher.decrypt(sealed, "token/a")).toThrow('the key "2025", which is not in the encryption keys');
  });
});

test.each([
  ["nothing", "", "entry 1"],
  ["no id", newKey.slice(5), "entry 1"],
  ["a short key", `${newKey},x:c2hvcnQ=`, "entry 2"],
  ["a key that is not base64", "a:not base64 at all", "entry 1"],
  ["an id given twice", `${newKey},${newKey}`, '"2026" is given twice'],
])("refuses %s, without showing a key", (_case, keys, message) => {
  expect(() => createCipher({ keys })).toThrow(ConfigError);
  expect(() => createCipher({ keys })).toThrow(message);
  expect(() => createCipher({ keys })).not.toThrow(/c2hvcnQ|ZmVkY2|not base64 at/);
});

describe("stored tokens", () => {
  let database: Database;
  beforeEach(async () => {
    database = await openDatabase("sqlite::memory:");
    await createKyselyStorage(database).migrate();
  });
  afterEach(() => database.close());
  const storageWith = (keys?: string) =>
    createKyselyStorage({ ...database, ...(keys === undefined ? {} : { cipher: createCipher({ keys }) }) });
  const pair = { accessToken: "access-1", refreshToken: "refresh-1" };
  const rawRow = async () =>
    JSON.stringify(await database.db.selectFrom("orderbridge_token").selectAll().executeTakeFirst());

  test("are not readable in the table", async () => {
    const { tokens } = storageWith(newKey);
    await tokens.save("amocrm", pair, undefined);
    expect(await rawRow()).not.toMatch(/access-1|refresh-1/);
    expect(await tokens.get("amocrm")).toMatchObject(pair);
  });

  test("are refused without the key, rather than sent as ciphertext", async () => {
    await storageWith(newKey).tokens.save("amocrm", pair, undefined);
    await expect(storageWith().tokens.get("amocrm")).rejects.toThrow("is encrypted; give the encryption keys");
  });

  test("that were stored before encryption are read, and encrypted by reencrypt", async () => {
    await storageWith().tokens.save("amocrm", pair, undefined);
    const storage = storageWith(oldKey);
    expect(await storage.tokens.get("amocrm")).toMatchObject(pair);
    expect(await storage.reencrypt()).toBe(1);
    expect(await storage.reencrypt()).toBe(0);
    expect(await rawRow()).not.toContain("access-1");
    expect(await storage.tokens.get("amocrm")).toMatchObject({ ...pair, version: 1 });
  });

  test("outlive a rotation of the key", async () => {
    await storageWith(oldKey).tokens.save("amocrm", pair, undefined);
    await storageWith(oldKey).tokens.save("other", { accessToken: "long-lived" }, undefined);
    expect(await storageWith(`${newKey},${oldKey}`).reencrypt()).toBe(2);
    const { tokens } = storageWith(newKey);
    expect(await tokens.get("amocrm")).toMatchObject(pair);
    expect(await tokens.get("other")).toMatchObject({ accessToken: "long-lived" });
  });

  test("cannot be swapped between accounts in the table", async () => {
    const { tokens } = storageWith(newKey);
    await tokens.save("amocrm", pair, undefined);
    await tokens.save("bitrix", { accessToken: "other" }, undefined);
    const row = await database.db
      .selectFrom("orderbridge_token")
      .selectAll()
      .where("key", "=", "bitrix")
      .executeTakeFirst();
    await database.db
      .updateTable("orderbridge_token")
      .set({ access_token: row?.access_token })
      .where("key", "=", "amocrm")
      .execute();
    await expect(tokens.get("amocrm")).rejects.toThrow("orderbridge_token/amocrm/access_token does not open");
  });
});
