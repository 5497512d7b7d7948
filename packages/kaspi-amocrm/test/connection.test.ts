import { createMemoryStorage } from "@orderbridge/core/memory";
import { fetchFrom } from "@orderbridge/core/testing";
import { expect, test } from "vitest";
import { createAmocrm, createAmocrmConnection } from "../src/amocrm/index.ts";
import { createFakeAmocrm, type FakeAmocrmOptions, fakeAccount, fakeIntegration } from "../src/testing/index.ts";
import { createSteppingClock } from "./setting.ts";

const hour = 3_600_000;
const { host } = fakeAccount;

/** The fake as the vendor: reached by the names of its hosts. */
function createScene(options: FakeAmocrmOptions = {}) {
  const clock = createSteppingClock();
  const fake = createFakeAmocrm({ clock, accessTokens: [], ...options });
  const storage = createMemoryStorage({ clock });
  const sentTo: string[] = [];
  const send = fetchFrom(fake.handle);
  const fetch: typeof globalThis.fetch = (input, init) => {
    sentTo.push(new URL(String(input)).host);
    return send(input, init);
  };
  let reauths = 0;
  const connect = () =>
    createAmocrmConnection({ ...fakeIntegration, host, storage, clock, fetch, onNeedsReauth: () => void reauths++ });
  const connection = connect();
  const amocrm = createAmocrm({ host, token: connection.tokens, integration: "x", clock, fetch, minDelayMs: 1 });
  /** An administrator opens the link and agrees; `change` is what a forger makes of the redirect. */
  const consent = async (change: Readonly<Record<string, string>> = {}) => {
    const answer = await send(connection.consentUrl(), { redirect: "manual" });
    const redirect = new URL(answer.headers.get("location") ?? "");
    for (const [name, value] of Object.entries(change)) redirect.searchParams.set(name, value);
    return connection.callback(new Request(redirect));
  };
  const disable = (query: string) => connection.disableHook(new Request(`https://worker.example/off?${query}`));
  return { clock, fake, storage, connection, connect, amocrm, consent, disable, sentTo, reauths: () => reauths };
}

test("an administrator's consent connects the account; the pair is refreshed ahead of its end and each token works once", async () => {
  const { amocrm, consent, fake, clock } = createScene();
  expect((await consent()).status).toBe(200);
  expect(await amocrm.account()).toMatchObject({ id: String(fakeAccount.accountId), subdomain: "demo" });
  for (let refreshed = 1; refreshed <= 3; refreshed++) {
    clock.advance(22 * hour);
    await amocrm.account();
    expect(fake.oauth.refreshes).toBe(refreshed);
  }
});

test.each([true, false])("the end of a pair is known whether server_time is told: %s", async (hasServerTime) => {
  const { consent, connection } = createScene({ hasServerTime });
  await consent();
  expect((await connection.tokens.current()).expiresAt).toEqual(new Date("2026-11-21T06:00:00.000Z"));
});

test.each([
  ["a redirect address that is another one in the integration's settings", { redirectUri: "https://other.example" }],
  ["another client secret", { clientSecret: "another-secret-of-the-integration" }],
])("%s is refused by the vendor and stores nothing", async (_name, change) => {
  const { consent, connection } = createScene({ integration: { ...fakeIntegration, ...change } });
  expect((await consent()).status).toBe(500);
  await expect(connection.tokens.current()).rejects.toThrow("no valid token");
});

test("a code older than 20 minutes and a code that was used are refused", async () => {
  const { connection, fake, clock, consent } = createScene();
  const code = fake.oauth.issueCode();
  clock.advance(20 * 60_000);
  expect((await consent({ code })).status).toBe(500);
  await consent();
  const first = await connection.tokens.current();
  expect((await consent({ code })).status).toBe(500);
  expect((await connection.tokens.current()).accessToken).toBe(first.accessToken);
});

test("a refresh whose answer is lost is asked once more, then a person must consent; the old token lives on", async () => {
  const { amocrm, consent, fake, clock, connection, reauths } = createScene();
  await consent();
  clock.advance(22 * hour);
  fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" }, match: ({ url }) => url.endsWith("/access_token") });
  await amocrm.account(); // the access token still works for two hours
  expect(fake.journal.count("POST /oauth2/access_token")).toBe(3);
  expect([(await connection.tokens.current()).state, reauths()]).toEqual(["needs_reauth", 1]);
  await amocrm.account();
  clock.advance(3 * hour);
  const calls = fake.journal.entries.length;
  await expect(amocrm.account()).rejects.toThrow("no valid token");
  expect(fake.journal.entries).toHaveLength(calls); // nothing is called with a token that has ended
  expect((await consent()).status).toBe(200);
  expect((await amocrm.account()).subdomain).toBe("demo");
});

test("a refresh token older than three months ends the connection, and tokens are never deleted", async () => {
  const { amocrm, consent, clock, connection } = createScene();
  await consent();
  clock.advance(91 * 24 * hour);
  await expect(amocrm.account()).rejects.toThrow("no valid token");
  expect(await connection.tokens.current()).toMatchObject({ state: "needs_reauth", host });
});

test("a renamed account is found by its last token, and calls, refreshes and consents go to its new host", async () => {
  const { amocrm, consent, fake, clock, sentTo, connection } = createScene();
  await consent();
  fake.rename("novoe-imya");
  expect((await amocrm.account()).subdomain).toBe("novoe-imya"); // the page "not found" led to the look-up
  expect((await connection.tokens.current()).host).toBe("novoe-imya.amocrm.ru");
  fake.rename("third");
  clock.advance(25 * hour);
  expect((await amocrm.account()).subdomain).toBe("third"); // the refused refresh led to it
  sentTo.length = 0;
  expect((await consent()).status).toBe(200);
  expect(sentTo).toEqual(["third.amocrm.ru"]);
});

test.each([
  ["the host of another customer", fakeAccount.otherHost],
  ["a host outside the vendor's domains", "evil.example"],
  ["a host that only ends like the vendor's", "evilamocrm.ru"],
  ["a user name before the host", "demo.amocrm.ru@evil.example"],
  ["a port", "demo.amocrm.ru:8443"],
  ["a path", "demo.amocrm.ru/.evil.example"],
])("a callback that names %s sends neither secret nor code there", async (_name, referer) => {
  const { consent, sentTo, connection } = createScene();
  await consent();
  const { accessToken } = await connection.tokens.current();
  sentTo.length = 0;
  expect((await consent({ referer })).status).toBe(400);
  expect(new Set(sentTo)).toEqual(new Set(sentTo.length > 0 ? [fakeAccount.apiDomain] : []));
  expect((await connection.tokens.current()).accessToken).toBe(accessToken);
});

test("a token that names a foreign shard is asked nowhere", async () => {
  const { connection, amocrm, fake, sentTo } = createScene();
  const claims = Buffer.from(JSON.stringify({ api_domain: "evil.example", exp: 1 })).toString("base64url");
  await connection.importPair({ accessToken: `e30.${claims}.x`, refreshToken: fake.oauth.issuePair().refreshToken });
  fake.rename("third");
  await expect(amocrm.account()).rejects.toThrow();
  expect(new Set(sentTo)).toEqual(new Set([host]));
});

test("the disable hook is checked, asks the account first, and then stops every call until a new consent", async () => {
  const { amocrm, consent, fake, disable, connection, reauths } = createScene();
  await consent();
  const query = fake.oauth.disable();
  const forged = new URLSearchParams(query);
  forged.set("account_id", "1");
  expect((await disable(String(forged))).status).toBe(403);
  expect((await disable(query.replace("client_uuid", "client_id"))).status).toBe(200); // either name
  expect([(await connection.tokens.current()).state, reauths()]).toEqual(["needs_reauth", 1]);
  const calls = fake.journal.entries.length;
  await expect(amocrm.account()).rejects.toThrow("no valid token");
  expect(fake.journal.entries).toHaveLength(calls);

  expect((await consent()).status).toBe(200);
  expect((await disable(query)).status).toBe(200); // an old hook that comes again changes nothing
  expect((await amocrm.account()).subdomain).toBe("demo");
});

test("an account that is not paid for ends the run with 402 and leaves the tokens alone", async () => {
  const { amocrm, consent, fake, connection } = createScene();
  await consent();
  fake.isPaid = false;
  await expect(amocrm.account()).rejects.toMatchObject({ status: 402, outcome: "refused" });
  await expect(amocrm.leads.create([{ requestId: "1", name: "x" }])).rejects.toMatchObject({ status: 402 });
  expect((await connection.tokens.current()).state).toBe("active");
  fake.isPaid = true;
  expect((await amocrm.account()).subdomain).toBe("demo");
});

test("a long-lived token tells when it ends; one that is no JWT tells nothing", () => {
  const claims = Buffer.from(JSON.stringify({ exp: 1_900_000_000 })).toString("base64url");
  expect(createAmocrm({ host, token: `e30.${claims}.signature` }).tokenEndsAt).toEqual(
    new Date("2030-03-17T17:46:40Z"),
  );
  expect(createAmocrm({ host, token: "opaque" }).tokenEndsAt).toBeUndefined();
  expect(createAmocrm({ host, token: "a.%%%.c" }).tokenEndsAt).toBeUndefined();
});
