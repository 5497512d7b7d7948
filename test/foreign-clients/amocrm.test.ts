import type http from "node:http";
import { createRequire } from "node:module";
import { systemClock } from "@orderbridge/core";
import { listen } from "@orderbridge/core/testing";
import {
  createFakeAmocrm,
  type FakeAmocrmOptions,
  fakeAccount,
  fakeIntegration,
} from "@orderbridge/kaspi-amocrm/testing";
import { Amo } from "@shevernitskiy/amo";
import { Client } from "amocrm-js";
import { afterEach, expect, test, vi } from "vitest";

// Both clients know only https://<account host>: the one goes through `fetch`, the other through `https.request`.
// These are pointed at the fake's port, for this file alone; nothing else of the clients is touched.
const require = createRequire(import.meta.url);
const cleanUps: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

async function createScene(options: FakeAmocrmOptions = {}) {
  const fake = createFakeAmocrm({ clock: systemClock, ...options });
  const server = await listen(fake.handle);
  const realFetch = globalThis.fetch;
  vi.stubGlobal("fetch", ((input: string, init?: RequestInit) =>
    realFetch(String(input).replace(`https://${fakeAccount.host}`, server.url), init)) as typeof fetch);
  const https = require("node:https") as { request: typeof http.request };
  const plain = require("node:http") as typeof http;
  const realRequest = https.request;
  https.request = ((given: http.RequestOptions, onAnswer: (answer: http.IncomingMessage) => void) =>
    plain.request({ ...given, hostname: "127.0.0.1", port: server.port }, onAnswer)) as typeof http.request;
  cleanUps.push(
    server.close,
    () => void vi.unstubAllGlobals(),
    () => {
      https.request = realRequest;
    },
  );
  return fake;
}

const grant = { client_id: fakeIntegration.clientId, client_secret: fakeIntegration.clientSecret };

const shevernitskiy = (code: string) =>
  new Amo(
    fakeAccount.host,
    { ...grant, grant_type: "authorization_code", code, redirect_uri: fakeIntegration.redirectUri },
    { request_delay: 160 },
  );

const amocrmJs = (code: string, more: Readonly<Record<string, unknown>> = {}) =>
  new Client({
    domain: fakeAccount.host,
    auth: { ...grant, redirect_uri: fakeIntegration.redirectUri, code, ...more },
  } as unknown as ConstructorParameters<typeof Client>[0]);

test("@shevernitskiy/amo authorises with a code and creates, reads, changes and links", async () => {
  const fake = await createScene();
  const amo = shevernitskiy(fake.oauth.issueCode());
  const account = await amo.account.getAccount();
  expect([account.id, account.subdomain]).toEqual([fakeAccount.accountId, "demo"]);
  expect(amo.token?.token_type).toBe("Bearer");

  const contacts = await amo.contact.addContacts([
    {
      name: "Айгүл",
      custom_fields_values: [{ field_code: "PHONE", values: [{ value: "+77010000001", enum_code: "WORK" }] }],
    },
  ] as unknown as Parameters<typeof amo.contact.addContacts>[0]);
  expect(contacts._embedded.contacts.map(({ id }) => id)).toEqual([fake.contacts[0]?.id]);
  expect(fake.contacts[0]?.phones).toEqual(["+77010000001"]);

  const leads = await amo.lead.addLeads([
    { name: "Первая", price: 100, request_id: "a" },
    { name: "Екінші", price: 200, request_id: "b" },
  ] as unknown as Parameters<typeof amo.lead.addLeads>[0]);
  const created = leads._embedded.leads as readonly { readonly id: number; readonly request_id?: string }[];
  const idOf = (requestId: string) => created.find(({ request_id }) => request_id === requestId)?.id as number;
  expect(fake.leads.map(({ id, name }) => [id, name])).toEqual([
    [idOf("a"), "Первая"],
    [idOf("b"), "Екінші"],
  ]);

  await amo.lead.updateLeadById(idOf("a"), { price: 150 } as Parameters<typeof amo.lead.updateLeadById>[1]);
  const [first] = fake.leads;
  expect([first?.price, (await amo.lead.getLeadById(idOf("a"))).name]).toEqual([150, "Первая"]);
  const list = await amo.lead.getLeads({ limit: 1, page: 2 });
  expect(list._embedded.leads.map(({ id }) => id)).toEqual([idOf("b")]);

  const answer = await amo.lead.addComplex([
    { name: "Вместе", _embedded: { contacts: [{ name: "Данияр" }] } },
  ] as unknown as Parameters<typeof amo.lead.addComplex>[0]);
  expect(answer).toMatchObject([{ id: fake.leads[2]?.id, contact_id: fake.contacts[1]?.id, merged: false }]);
});

test("@shevernitskiy/amo refreshes a token that has ended, with a refresh token that then is worthless", async () => {
  const fake = await createScene();
  const { accessToken, refreshToken } = fake.oauth.issuePair();
  const expired = {
    ...{ token_type: "Bearer", expires_in: 86_400, access_token: accessToken, refresh_token: refreshToken },
    ...{ ...grant, redirect_uri: fakeIntegration.redirectUri, expires_at: 1 },
  };
  const amo = new Amo(fakeAccount.host, expired, { request_delay: 160 });
  await amo.account.getAccount();
  expect(fake.oauth.refreshes).toBe(1);
  expect(amo.token?.refresh_token).not.toBe(refreshToken);
  await expect(new Amo(fakeAccount.host, expired).account.getAccount()).rejects.toThrow();
  expect(fake.journal.entries.at(-1)).toMatchObject({ path: "/oauth2/access_token", status: 401 });
});

test("@shevernitskiy/amo understands no content, a refused item and too many requests as its authors meant them", async () => {
  const fake = await createScene({ accessTokens: [] });
  const amo = shevernitskiy(fake.oauth.issueCode());
  await expect(amo.lead.getLeads()).rejects.toThrow("204 No Content");
  const bad = [{ name: "x", responsible_user_id: 999 }] as unknown as Parameters<typeof amo.lead.addLeads>[0];
  const refused = await amo.lead.addLeads(bad).catch((error: unknown) => error);
  expect(refused).toMatchObject({ response: { "validation-errors": [{ errors: [{ code: "NotSupportedChoice" }] }] } });
  expect(fake.leads).toEqual([]);

  fake.faults.add({ fault: { kind: "rateLimit" } });
  await expect(amo.account.getAccount()).rejects.toThrow("Too many requests");
  const forged = await shevernitskiy("def502-wrong")
    .account.getAccount()
    .catch((error: unknown) => error);
  expect(forged).toMatchObject({ response: { hint: "Cannot decrypt the authorization code", status: 400 } });
});

test("amocrm-js authorises with a code, creates and lists leads and contacts", async () => {
  const fake = await createScene({ ratePerSecond: 50 }); // it does not pace itself
  const client = amocrmJs(fake.oauth.issueCode());
  const [lead] = await client.leads.create([{ name: "Сделка «Ä»", price: 7_990 }]);
  expect([lead?.id, fake.leads[0]?.name]).toEqual([fake.leads[0]?.id, "Сделка «Ä»"]);
  const [contact] = await client.contacts.create([{ name: "Айгүл" }]);
  expect(contact?.id).toBe(fake.contacts[0]?.id);
  const found = await client.leads.getById(lead?.id as number);
  expect([found?.name, found?.price]).toEqual(["Сделка «Ä»", 7_990]);
  for (let index = 0; index < 3; index++) await client.leads.create([{ name: `Lead ${index}` }]);
  const page = await client.leads.get({ limit: 2, page: 1 } as Parameters<typeof client.leads.get>[0]);
  expect(page.getData()).toHaveLength(2);
  await page.next();
  expect(page.getData().map(({ name }) => name)).toEqual(["Lead 1", "Lead 2"]);
});

test("amocrm-js refreshes, and names the hint when the refresh token was used before", async () => {
  const fake = await createScene();
  const { accessToken, refreshToken } = fake.oauth.issuePair();
  const token = { token_type: "Bearer", expires_in: 86_400, access_token: accessToken, refresh_token: refreshToken };
  const expire = (client: Client) => {
    client.token.setValue({ ...token, expires_at: 1 });
    return client;
  };
  const client = expire(amocrmJs(""));
  await client.request.get("/api/v4/account");
  expect(fake.oauth.refreshes).toBe(1);
  vi.spyOn(console, "error").mockImplementation(() => undefined); // it prints every error
  await expect(expire(amocrmJs("")).request.get("/api/v4/account")).rejects.toMatchObject({
    data: { status: 401, hint: "Token has been revoked" },
  });
  vi.restoreAllMocks();
});

test("amocrm-js meets an empty body for no content, the error envelope, and a 429 that is no JSON", async () => {
  const fake = await createScene();
  const client = amocrmJs(fake.oauth.issueCode());
  const { response, data } = await client.request.get("/api/v4/leads");
  expect([response.statusCode, data]).toEqual([204, {}]);
  vi.spyOn(console, "error").mockImplementation(() => undefined);
  await expect(client.leads.create([{ name: "x", responsible_user_id: 999 }])).rejects.toMatchObject({
    data: { status: 400, "validation-errors": [{ request_id: "0", errors: [{ code: "NotSupportedChoice" }] }] },
  });
  vi.restoreAllMocks();
  fake.faults.add({ fault: { kind: "rateLimit" } });
  await expect(client.request.get("/api/v4/account")).rejects.toThrow("JSON_PARSE_ERROR");
});
