// The fake portal against the vendor's documents, by plain requests: what our client makes of it is tested elsewhere.
// "Events", "Offline events", apidocs.bitrix24.ru (read 2026-08); where the sources differ, each reading.
import { describe, expect, test } from "vitest";
import type { FakeBitrixOptions } from "../src/testing/index.ts";
import { call, grant, json, send, setUp, start } from "./fake-requests.ts";

describe("events", () => {
  interface Received {
    readonly url: string;
    readonly type: string | null;
    readonly form: URLSearchParams;
  }
  function listening(options: FakeBitrixOptions = {}, status = 200) {
    const received: Received[] = [];
    const parts = setUp({
      ...options,
      async deliver(request) {
        received.push({
          url: request.url,
          type: request.headers.get("content-type"),
          form: new URLSearchParams(await request.text()),
        });
        return new Response(null, { status });
      },
    });
    return { ...parts, received };
  }
  const names = (received: readonly Received[]) => received.map(({ form }) => form.get("event"));

  test("come as a form, once whatever is answered, with whole seconds and the application token", async () => {
    const { fake, received } = listening({}, 500);
    const { id } = fake.addDeal({});
    await fake.settled();
    expect(received).toHaveLength(1);
    expect(received[0]?.type).toBe("application/x-www-form-urlencoded");
    expect(Object.fromEntries(received[0]?.form ?? [])).toEqual({
      event: "ONCRMDEALADD",
      event_handler_id: "975",
      "data[FIELDS][ID]": String(id),
      ts: String(start.getTime() / 1000),
      "auth[domain]": "fake.bitrix24.kz",
      "auth[client_endpoint]": "https://fake.bitrix24.kz/rest/",
      "auth[server_endpoint]": "https://oauth.bitrix.info/rest/",
      "auth[member_id]": "a223c6b3710f85df22e9377d6c4f7553",
      "auth[application_token]": "fake-application-token",
    });
  });

  test("a move to another funnel is told to applications only, and is no update", async () => {
    const { fake, received } = listening();
    fake.addCategory(9, "Опт", [{ id: "C9:NEW", name: "Новая", sort: 10, semantics: "process" }]);
    const { id } = fake.addDeal({});
    fake.moveToCategory(id, 9, "C9:NEW");
    await fake.settled();
    expect(names(received)).toEqual(["ONCRMDEALADD"]);
    const auth = await grant(fake);
    const bind = { auth, event: "ONCRMDEALMOVETOCATEGORY", handler: "https://application.example/events" };
    expect((await call(fake, "event.bind", bind)).body.error).toBe("WRONG_AUTH_TYPE");
    expect((await send(fake, "/rest/event.bind", json(bind))).body.result).toBe(true);
    fake.moveToCategory(id, 0, "NEW");
    await send(
      fake,
      "/rest/crm.item.update",
      json({ auth, entityTypeId: 2, id, fields: { categoryId: 9, stageId: "C9:NEW" } }),
    );
    await fake.settled();
    const moves = received.slice(1);
    expect(
      moves.map(({ url, form }) => [url, form.get("data[FIELDS][CATEGORY_ID]"), form.get("data[FIELDS][STAGE_ID]")]),
    ).toEqual([
      ["https://application.example/events", "0", "NEW"],
      ["https://application.example/events", "9", "C9:NEW"],
    ]);
    // Tokens come where a user is known, and they work.
    expect(moves[0]?.form.has("auth[access_token]")).toBe(false);
    const token = moves[1]?.form.get("auth[access_token]");
    expect((await send(fake, `/rest/profile?auth=${token}`)).status).toBe(200);
  });

  test("are lost, doubled, and overtaken by later ones", async () => {
    const { clock, fake, received } = listening();
    const copies = [0, 2, 1];
    fake.setEventCopies((_event, index) => copies[index] ?? 1);
    fake.setEventDelay((_event, index) => (index === 1 ? 3_000 : 0));
    const ids = [1, 2, 3].map(() => fake.addDeal({}).id);
    const settled = fake.settled();
    while (received.length < 1) await new Promise((resolve) => setImmediate(resolve));
    clock.advance(3_000);
    await settled;
    expect(received.map(({ form }) => Number(form.get("data[FIELDS][ID]")))).toEqual([ids[2], ids[1], ids[1]]);
  });

  test("a robot moves a deal on right after our write, in any family, and tells of both", async () => {
    const { fake, received } = listening();
    const { id } = fake.addDeal({});
    fake.setRobot(({ stageId }) => (stageId === "PREPARATION" ? "EXECUTING" : undefined));
    await call(fake, "crm.deal.update", { id, fields: { STAGE_ID: "PREPARATION" } });
    await fake.settled();
    expect(fake.deal(id)?.stageId).toBe("EXECUTING");
    expect(names(received)).toEqual(["ONCRMDEALADD", "ONCRMDEALUPDATE", "ONCRMDEALUPDATE"]);
    const { body } = await call(fake, "crm.stagehistory.list", { entityTypeId: 2, filter: { OWNER_ID: id } });
    expect(body.result.items.map((row: { STAGE_ID: string }) => row.STAGE_ID)).toEqual([
      "NEW",
      "PREPARATION",
      "EXECUTING",
    ]);
  });

  test("one payment of the store raises several", async () => {
    const { fake, received } = listening();
    fake.addShopOrder({ id: 5 });
    fake.addPayment({ id: 6, orderId: 5 });
    await call(fake, "sale.payment.update", { id: 6, fields: { paySystemId: 1, paid: "Y" } });
    await fake.settled();
    expect(new Set(names(received))).toEqual(
      new Set(["ONSALEORDERSAVED", "ONORDERENTITYSAVED", "ONPAYMENTENTITYSAVED"]),
    );
    expect(fake.shopOrder(5)).toMatchObject({ payed: "Y", statusId: "N" });
  });

  test("a stage of another funnel and an unknown field change nothing, and it is called a success", async () => {
    const { fake } = setUp();
    const { id } = fake.addDeal({});
    const fields = { STAGE_ID: "C9:WON", NO_SUCH_FIELD: "x" };
    expect((await call(fake, "crm.deal.update", { id, fields })).body.result).toBe(true);
    expect(fake.deal(id)).toMatchObject({ stageId: "NEW" });
    expect(fake.deal(id)?.fields).not.toHaveProperty("NO_SUCH_FIELD");
  });
});

describe("the offline queue", () => {
  async function bound(options: FakeBitrixOptions = {}) {
    const parts = setUp(options);
    const auth = await grant(parts.fake);
    const ask = async (method: string, parameters: object = {}) =>
      (await send(parts.fake, `/rest/${method}`, json({ auth, ...parameters }))).body;
    const bind = (more: object = {}) => ask("event.bind", { event: "ONCRMDEALUPDATE", event_type: "offline", ...more });
    return { ...parts, ask, bind };
  }
  const messages = (events: readonly { MESSAGE_ID: string }[]) => events.map(({ MESSAGE_ID }) => MESSAGE_ID);

  test("has one row for each object and event; a change moves its time, and the oldest comes first", async () => {
    const { clock, fake, ask, bind } = await bound();
    await bind();
    const [a, b] = [fake.addDeal({}).id, fake.addDeal({}).id];
    fake.moveDeal(a, "PREPARATION");
    clock.advance(1000);
    fake.moveDeal(b, "PREPARATION");
    clock.advance(1000);
    fake.moveDeal(a, "EXECUTING");
    const { result } = await ask("event.offline.get");
    const rows = result.events.map((row: { EVENT_DATA: { FIELDS: { ID: number } } }) => row.EVENT_DATA.FIELDS.ID);
    expect([rows, result.process_id]).toEqual([[b, a], null]);
    expect((await ask("event.offline.list")).result).toEqual([]);
  });

  test("a reserved portion is hidden from others until it is cleared; more can be taken into it", async () => {
    const { fake, ask, bind } = await bound();
    await bind();
    for (let index = 0; index < 4; index++) fake.moveDeal(fake.addDeal({}).id, "PREPARATION");
    const one = (await ask("event.offline.get", { clear: 0, limit: 1 })).result;
    const two = (await ask("event.offline.get", { clear: 0, limit: 1 })).result;
    expect(messages([...one.events, ...two.events])).toEqual(["message-1", "message-2"]);
    const more = (await ask("event.offline.get", { clear: 0, limit: 1, process_id: one.process_id })).result;
    expect([more.process_id, messages(more.events)]).toEqual([one.process_id, ["message-3"]]);
    await ask("event.offline.clear", { process_id: one.process_id, message_id: ["message-1"] });
    const left = (await ask("event.offline.list", { filter: { "=PROCESS_ID": one.process_id } })).result;
    expect(messages(left)).toEqual(["message-3"]);
    await ask("event.offline.error", { process_id: two.process_id, message_id: messages(two.events) });
    expect(messages((await ask("event.offline.get", { clear: 0, error: 1 })).result.events)).toEqual(["message-2"]);
    const named = { clear: 0, filter: { "=EVENT_NAME": "ONCRMDEALADD" } };
    expect((await ask("event.offline.get", named)).result.events).toEqual([]);
    expect(messages((await ask("event.offline.get")).result.events)).toEqual(["message-4"]);
  });

  test.each([
    ["documents", "", "", 1],
    ["documents", "shop", "shop", 0],
    ["documents", "shop", "", 1],
    ["source", "", "", 0],
    ["source", "shop", "shop", 0],
    ["source", "shop", "", 1],
  ] as const)("by the %s: bound with %j, changed with %j", async (ownChanges, connector, given, rows) => {
    const { fake, ask, bind } = await bound({ ownChanges });
    await bind(connector === "" ? {} : { auth_connector: connector });
    const { id } = fake.addDeal({});
    await ask("crm.deal.update", {
      id,
      fields: { TITLE: "x" },
      ...(given === "" ? {} : { auth_connector: given }),
    });
    expect(fake.offline).toHaveLength(rows);
    // What a person does is always kept.
    fake.moveDeal(id, "WON");
    expect(fake.offline).toHaveLength(1);
  });

  test("tells that it is not empty, at most once in minTimeout, and keeps reservations to plans that have them", async () => {
    const told: (string | null)[] = [];
    const { clock, fake, ask, bind } = await bound({
      async deliver(request) {
        const form = new URLSearchParams(await request.text());
        if (request.url.endsWith("/offline")) told.push(form.get("event"));
        return new Response();
      },
    });
    await bind();
    const handler = "https://application.example/offline";
    await ask("event.bind", { event: "ONOFFLINEEVENT", handler, options: { minTimeout: 5 } });
    const { id } = fake.addDeal({});
    for (const stage of ["PREPARATION", "EXECUTING"]) fake.moveDeal(id, stage);
    clock.advance(5_000);
    fake.moveDeal(id, "WON");
    await fake.settled();
    expect(told).toEqual(["ONOFFLINEEVENT", "ONOFFLINEEVENT"]);
    const poor = await bound({ offlineExtended: false });
    expect((await poor.ask("event.offline.get", { clear: 0 })).error).toBe("WRONG_LICENSE");
    expect((await poor.bind({ auth_connector: "shop" })).error).toBe("WRONG_LICENSE");
    expect((await poor.ask("event.offline.get")).result.events).toEqual([]);
  });
});
