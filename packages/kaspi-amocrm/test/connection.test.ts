import { type Fault, fetchFrom } from "@orderbridge/core/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { createAmocrm, createAmocrmConnection } from "../src/amocrm/index.ts";
import { createFakeAmocrm, type FakeAmocrmOptions, fakeAccount, fakeIntegration } from "../src/testing/index.ts";
import { createSteppingClock } from "./setting.ts";
import { type OpenStorage, testStorages } from "./storages.ts";

const hour = 3_600_000;
const { host } = fakeAccount;

/** The fake as the vendor: reached by the names of its hosts. */
async function createSceneOn(opened: OpenStorage, options: FakeAmocrmOptions = {}) {
  const clock = createSteppingClock();
  const fake = createFakeAmocrm({ clock, accessTokens: [], ...options });
  const storage = (await opened.clear({ storesBudget: true })).core(clock);
  const sentTo: string[] = [];
  const exchanges: unknown[] = [];
  const send = fetchFrom(fake.handle);
  const fetch: typeof globalThis.fetch = (input, init) => {
    const url = new URL(String(input));
    sentTo.push(url.host);
    if (url.pathname === "/oauth2/access_token") exchanges.push([url.href, JSON.parse(String(init?.body))]);
    return send(input, init);
  };
  let reauths = 0;
  const connect = () =>
    createAmocrmConnection({ ...fakeIntegration, host, storage, clock, fetch, onNeedsReauth: () => void reauths++ });
  const connection = connect();
  const connectClient = () =>
    createAmocrm({
      host,
      token: connection.tokens,
      integration: "x",
      rateLimits: storage.rateLimits,
      clock,
      fetch,
      minDelayMs: 1,
    });
  /** An administrator opens the link and agrees; `change` is what a forger makes of the redirect. */
  const consent = async (change: Readonly<Record<string, string>> = {}) => {
    const answer = await send(connection.consentUrl(), { redirect: "manual" });
    const redirect = new URL(answer.headers.get("location") ?? "");
    for (const [name, value] of Object.entries(change)) redirect.searchParams.set(name, value);
    return connection.callback(new Request(redirect));
  };
  const disable = (query: string) => connection.disableHook(new Request(`https://worker.example/off?${query}`));
  return {
    clock,
    fake,
    storage,
    connection,
    connect,
    connectClient,
    amocrm: connectClient(),
    consent,
    disable,
    sentTo,
    exchanges,
    reauths: () => reauths,
  };
}

const isApiCall = ({ url }: Request): boolean => url.includes("/api/v4/");
const stateOf = (consentUrl: string): string => new URL(consentUrl).searchParams.get("state") ?? "";

for (const { name: storageName, skipped, open } of testStorages()) {
  describe.skipIf(skipped)(storageName, () => {
    let opened: OpenStorage;
    beforeAll(async () => {
      opened = await open();
    });
    afterAll(() => opened?.close());
    const createScene = (options?: FakeAmocrmOptions) => createSceneOn(opened, options);

    test("a consent is exchanged once, by the account's own host, and its state works once", async () => {
      const { connection, sentTo, exchanges, fake } = await createScene();
      const state = stateOf(connection.consentUrl());
      const code = fake.oauth.issueCode();
      const query = new URLSearchParams({ code, referer: host, state, platform: "1" });
      const callback = () => connection.callback(new Request(`${fakeIntegration.redirectUri}?${query}`));
      expect((await callback()).status).toBe(200);
      expect(exchanges).toEqual([
        [
          `https://${host}/oauth2/access_token`,
          {
            client_id: fakeIntegration.clientId,
            client_secret: fakeIntegration.clientSecret,
            redirect_uri: fakeIntegration.redirectUri,
            grant_type: "authorization_code",
            code,
          },
        ],
      ]);
      query.set("code", fake.oauth.issueCode());
      expect((await callback()).status).toBe(400); // the state is used
      expect(sentTo).toEqual([host]);
    });

    test("of callbacks with one state that come at once, to two processes, one is exchanged", async () => {
      const { connection, connect, fake, exchanges } = await createScene();
      const state = stateOf(connection.consentUrl());
      const come = ({ callback }: typeof connection) => {
        const query = new URLSearchParams({ code: fake.oauth.issueCode(), referer: host, state });
        return callback(new Request(`${fakeIntegration.redirectUri}?${query}`));
      };
      const answers = await Promise.all([come(connection), come(connect()), come(connection)]);
      expect(answers.map(({ status }) => status).sort()).toEqual([200, 400, 400]);
      expect(exchanges).toHaveLength(1);
    });

    test.each([
      ["another account, while none is connected", { referer: fakeAccount.otherHost }],
      ["a host of somebody else", { referer: "evil.example" }],
      ["a host that only begins like ours", { referer: `${host}.evil.example` }],
      ["no host", { referer: "" }],
      ["a forged state", { state: "nonce.9999999999999.signature" }],
      ["no state", { state: "" }],
      ["a refusal", { error: "access_denied" }],
      ["no code", { code: "" }],
    ])("a first callback with %s sends the client secret nowhere and stores nothing", async (_name, change) => {
      const { consent, sentTo, connection } = await createScene();
      expect((await consent(change)).status).toBe(400);
      expect(sentTo).toEqual([]);
      await expect(connection.tokens.current()).rejects.toThrow("no valid token");
    });

    test("a state that somebody signed with another secret is refused", async () => {
      const { storage, clock, consent, sentTo } = await createScene();
      const stranger = createAmocrmConnection({
        ...fakeIntegration,
        clientSecret: "guessed-secret",
        host,
        storage,
        clock,
      });
      expect((await consent({ state: stateOf(stranger.consentUrl()) })).status).toBe(400);
      expect(sentTo).toEqual([]);
    });

    test("a state ends after twenty minutes", async () => {
      const { connection, consent, clock, sentTo } = await createScene();
      const state = stateOf(connection.consentUrl());
      clock.advance(20 * 60_000 + 1);
      expect((await consent({ state })).status).toBe(400);
      expect(sentTo).toEqual([]);
    });

    test("an administrator's consent connects the account; the pair is refreshed ahead of its end and each token works once", async () => {
      const { amocrm, consent, fake, clock } = await createScene();
      expect((await consent()).status).toBe(200);
      expect(await amocrm.account()).toMatchObject({ id: String(fakeAccount.accountId), subdomain: "demo" });
      for (let refreshed = 1; refreshed <= 3; refreshed++) {
        clock.advance(22 * hour);
        await amocrm.account();
        expect(fake.oauth.refreshes).toBe(refreshed);
      }
    });

    test.each([true, false])("the end of a pair is known whether server_time is told: %s", async (hasServerTime) => {
      const { consent, connection } = await createScene({ hasServerTime });
      await consent();
      expect((await connection.tokens.current()).expiresAt).toEqual(new Date("2026-11-21T06:00:00.000Z"));
    });

    test.each([
      [
        "a redirect address that is another one in the integration's settings",
        { redirectUri: "https://other.example" },
      ],
      ["another client secret", { clientSecret: "another-secret-of-the-integration" }],
    ])("%s is refused by the vendor and stores nothing", async (_name, change) => {
      const { consent, connection } = await createScene({ integration: { ...fakeIntegration, ...change } });
      expect((await consent()).status).toBe(500);
      await expect(connection.tokens.current()).rejects.toThrow("no valid token");
    });

    test("a code older than 20 minutes and a code that was used are refused", async () => {
      const { connection, fake, clock, consent } = await createScene();
      const code = fake.oauth.issueCode();
      clock.advance(20 * 60_000);
      expect((await consent({ code })).status).toBe(500);
      await consent();
      const first = await connection.tokens.current();
      expect((await consent({ code })).status).toBe(500);
      expect((await connection.tokens.current()).accessToken).toBe(first.accessToken);
    });

    test("a refresh whose answer is lost is asked once more, then a person must consent; the old token lives on", async () => {
      const { amocrm, consent, fake, clock, connection, reauths } = await createScene();
      await consent();
      clock.advance(22 * hour);
      fake.faults.add({
        fault: { kind: "dropReplyAfterExecuting" },
        match: ({ url }) => url.endsWith("/access_token"),
      });
      await amocrm.account(); // the access token still works for two hours
      expect(fake.journal.count("POST /oauth2/access_token")).toBe(2); // ahead of time a lost answer is left for a minute
      clock.advance(61_000);
      await amocrm.account();
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
      const { amocrm, consent, clock, connection } = await createScene();
      await consent();
      clock.advance(91 * 24 * hour);
      await expect(amocrm.account()).rejects.toThrow("no valid token");
      expect(await connection.tokens.current()).toMatchObject({ state: "needs_reauth", host });
    });

    test("a renamed account is found by its last token, and calls, refreshes and consents go to its new host", async () => {
      const { amocrm, consent, fake, clock, sentTo, connection } = await createScene();
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
      const { consent, sentTo, connection } = await createScene();
      await consent();
      const { accessToken } = await connection.tokens.current();
      sentTo.length = 0;
      expect((await consent({ referer })).status).toBe(400);
      expect(new Set(sentTo)).toEqual(new Set(sentTo.length > 0 ? [fakeAccount.apiDomain] : []));
      expect((await connection.tokens.current()).accessToken).toBe(accessToken);
    });

    test("a token that names a foreign shard is asked nowhere", async () => {
      const { connection, amocrm, fake, sentTo } = await createScene();
      const claims = Buffer.from(JSON.stringify({ api_domain: "evil.example", exp: 1 })).toString("base64url");
      await connection.importPair({
        accessToken: `e30.${claims}.x`,
        refreshToken: fake.oauth.issuePair().refreshToken,
      });
      fake.rename("third");
      await expect(amocrm.account()).rejects.toThrow();
      expect(new Set(sentTo)).toEqual(new Set([host]));
    });

    test("the disable hook is checked, asks the account first, and then stops every call until a new consent", async () => {
      const { amocrm, consent, fake, disable, connection, reauths } = await createScene();
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
      const { amocrm, consent, fake, connection } = await createScene();
      await consent();
      fake.isPaid = false;
      await expect(amocrm.account()).rejects.toMatchObject({ status: 402, outcome: "refused" });
      await expect(amocrm.leads.create([{ requestId: "1", name: "x" }])).rejects.toMatchObject({ status: 402 });
      expect((await connection.tokens.current()).state).toBe("active");
      fake.isPaid = true;
      expect((await amocrm.account()).subdomain).toBe("demo");
    });

    test.each<[string, Fault]>([
      ["a 429 page", { kind: "rateLimit" }],
      ["a block page", { kind: "block" }],
      ["a 502 before it ran", { kind: "failBeforeExecuting", status: 502 }],
    ])("%s to a refresh does not end the connection: the next one succeeds", async (_name, fault) => {
      const { amocrm, consent, fake, clock, connection, reauths } = await createScene();
      await consent();
      clock.advance(22 * hour);
      fake.faults.add({ fault, match: ({ url }) => url.endsWith("/access_token") });
      expect((await amocrm.account()).subdomain).toBe("demo"); // the access token still works for two hours
      fake.faults.clear();
      clock.advance(60_000);
      expect((await amocrm.account()).subdomain).toBe("demo");
      expect([(await connection.tokens.current()).state, reauths(), fake.oauth.refreshes]).toEqual(["active", 0, 1]);
    });

    test.each([400, 422])(
      "a refresh that is refused with %i is not tried again: a person must consent",
      async (status) => {
        const { amocrm, consent, fake, clock, connection, reauths } = await createScene();
        await consent();
        const { accessToken } = await connection.tokens.current();
        clock.advance(22 * hour);
        fake.faults.add({
          fault: { kind: "failBeforeExecuting", status },
          match: ({ url }) => url.endsWith("/access_token"),
        });
        await amocrm.account();
        await amocrm.account();
        expect(await connection.tokens.current()).toMatchObject({ state: "needs_reauth", accessToken });
        expect([reauths(), fake.journal.count("POST /oauth2/access_token")]).toEqual([1, 2]);
      },
    );

    test("an access token that is refused with 401 is refreshed once, however many calls meet it", async () => {
      const { amocrm, connectClient, consent, fake, connection } = await createScene({ ratePerSecond: 50 });
      await consent();
      fake.oauth.expireAccessTokens();
      const other = connectClient();
      const accounts = await Promise.all([amocrm.account(), other.account(), amocrm.account(), other.account()]);
      expect(accounts.map(({ subdomain }) => subdomain)).toEqual(Array(4).fill("demo"));
      expect(fake.oauth.refreshes).toBe(1);
      expect(await connection.tokens.current()).toMatchObject({ state: "active", version: 2 });
    });

    test("a call that is refused with 401 after the refresh too fails, and is not tried a third time", async () => {
      const { amocrm, consent, fake, connection } = await createScene();
      await consent();
      fake.faults.add({ fault: { kind: "failBeforeExecuting", status: 401 }, times: 9, match: isApiCall });
      await expect(amocrm.account()).rejects.toMatchObject({ status: 401 });
      expect(fake.journal.count("GET /api/v4/account")).toBe(2);
      expect((await connection.tokens.current()).state).toBe("active"); // the pair is kept
    });

    test("a 403 in JSON is about rights and stops nothing; the block page stops every process until a person unblocks", async () => {
      const { amocrm, connectClient, consent, fake, storage, clock, connection } = await createScene({
        hasCatalogs: false,
      });
      await consent();
      await expect(amocrm.catalogs.list()).rejects.toMatchObject({ status: 403, outcome: "refused" });
      expect((await amocrm.account()).subdomain).toBe("demo");
      fake.faults.add({ fault: { kind: "block" } });
      await expect(amocrm.account()).rejects.toThrow("blocks this account");
      const calls = fake.journal.entries.length;
      clock.advance(hour);
      const restarted = connectClient();
      await expect(restarted.account()).rejects.toThrow("calls are stopped");
      await expect(amocrm.leads.create([{ requestId: "1", name: "x" }])).rejects.toThrow("calls are stopped");
      expect(fake.journal.entries).toHaveLength(calls);
      expect((await connection.tokens.current()).state).toBe("active");
      fake.faults.clear();
      expect(await storage.rateLimits.unblock(`amocrm:${host}:x`)).toBe(true);
      clock.advance(hour);
      expect((await restarted.account()).subdomain).toBe("demo");
    });
  });
}

test("a long-lived token tells when it ends; one that is no JWT tells nothing", () => {
  const claims = Buffer.from(JSON.stringify({ exp: 1_900_000_000 })).toString("base64url");
  expect(createAmocrm({ host, token: `e30.${claims}.signature` }).tokenEndsAt).toEqual(
    new Date("2030-03-17T17:46:40Z"),
  );
  expect(createAmocrm({ host, token: "opaque" }).tokenEndsAt).toBeUndefined();
  expect(createAmocrm({ host, token: "a.%%%.c" }).tokenEndsAt).toBeUndefined();
});
