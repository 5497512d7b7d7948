import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { ConfigError, NeedsReauthError } from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createMemoryStorage } from "@orderbridge/core/memory";
import { createFakeClock, fetchFrom, listen } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createBitrix, createBitrixConnection } from "../src/index.ts";
import { createFakeBitrix } from "../src/testing/index.ts";

const memberId = "a223c6b3710f85df22e9377d6c4f7553";
const application = { memberId, clientId: "local.fake", clientSecret: "fake-client-secret" };
const budget = { intervalMs: 0.001, capacity: 1000 };

function setUp() {
  const clock = createFakeClock();
  const fake = createFakeBitrix({ clock, bucket: { perSecond: 1000, capacity: 1000 } });
  const storage = createMemoryStorage({ clock });
  let alarms = 0;
  const sent: { url: string; body: string }[] = [];
  const fetch = fetchFrom(async (request) => {
    sent.push({ url: request.url, body: await request.clone().text() });
    return fake.handle(request);
  });
  const oauth = createBitrixConnection({
    portalUrl: "https://fake.bitrix24.kz",
    ...application,
    storage,
    fetch,
    clock,
    onNeedsReauth: () => void alarms++,
  });
  const bitrix = createBitrix({ oauth, fetch, plan: budget, minDelayMs: 1 });
  return { clock, fake, storage, oauth, bitrix, sent, alarms: () => alarms };
}

test("an application calls with its token, in the body and never in the address", async () => {
  const { fake, oauth, bitrix, sent } = setUp();
  await oauth.connect(fake.consent());
  const { id } = fake.addDeal({ title: "Роза" });
  expect(await bitrix.deals.get(String(id))).toMatchObject({ title: "Роза" });
  const [first] = await bitrix.batch([{ method: "crm.deal.get", parameters: { id } }]);
  expect(first?.state).toBe("done");
  expect(sent.map(({ url }) => url)).toEqual([
    "https://oauth.bitrix.info/oauth/token/",
    "https://fake.bitrix24.kz/rest/crm.item.get",
    "https://fake.bitrix24.kz/rest/batch",
  ]);
});

test("does not refresh before the portal refuses the token, then once, and repeats the call", async () => {
  const { clock, fake, oauth, bitrix } = setUp();
  await oauth.connect(fake.consent());
  clock.advance(3_599_000);
  await bitrix.call("profile");
  expect(fake.refreshes).toBe(0);
  clock.advance(1_000);
  await bitrix.call("crm.deal.add", { fields: { TITLE: "Роза" } });
  expect([fake.refreshes, fake.deals.length]).toEqual([1, 1]);
});

test("one refresh for 50 parallel calls with an expired token in three processes", async () => {
  const fake = createFakeBitrix({ bucket: { perSecond: 10_000, capacity: 10_000 } });
  const portal = await listen(fake.handle);
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-oauth-"));
  const databaseUrl = `sqlite:${join(folder, "tokens.db")}`;
  const database = await openDatabase(databaseUrl);
  try {
    const storage = createKyselyStorage(database);
    await storage.migrate();
    await createBitrixConnection({
      portalUrl: portal.url,
      ...application,
      authorizationServer: portal.url,
      storage,
    }).connect(fake.consent());
    fake.expireTokens();
    const script = join(import.meta.dirname, "oauth.worker.ts");
    const processes = ["17", "17", "16"].map((calls) =>
      promisify(execFile)(process.execPath, [script, portal.url, memberId, databaseUrl, calls]),
    );
    expect((await Promise.all(processes)).map(({ stdout }) => stdout)).toEqual(["17", "17", "16"]);
    expect(fake.refreshes).toBe(1);
  } finally {
    await database.close();
    await portal.close();
    rmSync(folder, { recursive: true });
  }
});

test("a removed application needs a person: told once, and a new consent goes on", async () => {
  const { fake, oauth, bitrix, alarms } = setUp();
  await oauth.connect(fake.consent());
  fake.revokeTokens();
  await expect(bitrix.call("profile")).rejects.toThrow(NeedsReauthError);
  await expect(bitrix.call("profile")).rejects.toThrow(NeedsReauthError);
  expect(alarms()).toBe(1);
  await oauth.connect(fake.consent());
  expect(await bitrix.call("profile")).toMatchObject({ ADMIN: true });
});

test("tokens of another portal are refused, and a pair from elsewhere never replaces a stored one", async () => {
  const { fake, oauth, storage } = setUp();
  const other = createBitrixConnection({
    portalUrl: "https://fake.bitrix24.kz",
    ...application,
    memberId: "another-portal",
    storage,
    fetch: fetchFrom(fake.handle),
  });
  await expect(other.connect(fake.consent())).rejects.toMatchObject({ field: "memberId" });
  expect(await oauth.importPair({ accessToken: "access", refreshToken: "refresh" })).toBe(true);
  expect(await oauth.importPair({ accessToken: "late", refreshToken: "late" })).toBe(false);
  expect((await oauth.tokens.current()).accessToken).toBe("access");
});

test("an application that was installed anew goes on with the pair that its installer was given", async () => {
  const { fake, oauth, bitrix } = setUp();
  const installed = async () => {
    const { clientId: client_id, clientSecret: client_secret } = application;
    const body = new URLSearchParams({
      grant_type: "authorization_code",
      client_id,
      client_secret,
      code: fake.consent(),
    });
    const answer = await fake.handle(new Request("https://oauth.bitrix.info/oauth/token/", { method: "POST", body }));
    const { access_token, refresh_token } = (await answer.json()) as { access_token: string; refresh_token: string };
    return { accessToken: access_token, refreshToken: refresh_token };
  };
  await oauth.importPair(await installed());
  fake.revokeTokens();
  await expect(bitrix.call("profile")).rejects.toThrow(NeedsReauthError);
  expect(await oauth.importPair(await installed())).toBe(true);
  expect(await bitrix.call("profile")).toMatchObject({ ADMIN: true });

  fake.revokeTokens(); // nobody has called since, so the stored pair looks alive
  const newest = await installed();
  expect(await oauth.importPair(newest)).toBe(false);
  expect(await oauth.importPair(newest, { replace: true })).toBe(true);
  expect(await bitrix.call("profile")).toMatchObject({ ADMIN: true });
});

test("a code works once and for 30 seconds", async () => {
  const { clock, fake, oauth } = setUp();
  const code = fake.consent();
  await oauth.connect(code);
  await expect(oauth.connect(code)).rejects.toMatchObject({ vendorCode: "invalid_grant" });
  const late = fake.consent();
  clock.advance(30_001);
  await expect(oauth.connect(late)).rejects.toMatchObject({ vendorCode: "invalid_grant" });
});

test.each(["http://fake.bitrix24.kz", "https://fake.bitrix24.kz/rest/1/s3cret/", "fake.bitrix24.kz"])(
  "the address %s is refused",
  (portalUrl) => {
    const create = () => createBitrixConnection({ portalUrl, ...application, storage: createMemoryStorage() });
    expect(create).toThrow(ConfigError);
    expect(create).not.toThrow(/s3cret/);
  },
);
