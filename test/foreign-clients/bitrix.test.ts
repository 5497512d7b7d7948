// The official SDK against our fake portal: what it can do there, and what becomes of the same work with ours beside it.
import { B24Hook } from "@bitrix24/b24jssdk";
import { createBitrix } from "@orderbridge/bitrix";
import { createFakeBitrix, type FakeBitrix } from "@orderbridge/bitrix/testing";
import { type Listening, listen } from "@orderbridge/core/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

let portal: FakeBitrix;
let server: Listening;
beforeEach(async () => {
  portal = createFakeBitrix({ bucket: { perSecond: 1_000, capacity: 100_000 }, costs: {}, operatingLimitSeconds: 1e9 });
  server = await listen(portal.handle);
});
afterEach(() => server.close());

/** It insists on https; the fake speaks http on this machine. */
function openSdk(): B24Hook {
  const hook = B24Hook.fromWebhookUrl(portal.webhookUrl(server.url).replace("http://", "https://"));
  const { ajaxClient } = hook.getHttpClient("v2" as never) as unknown as {
    ajaxClient: {
      interceptors: { request: { use(change: (config: { baseURL?: string; url?: string }) => unknown): void } };
    };
  };
  ajaxClient.interceptors.request.use((config) => {
    for (const name of ["baseURL", "url"] as const) {
      const value = config[name];
      if (value !== undefined) config[name] = value.replace("https://", "http://");
    }
    return config;
  });
  return hook;
}

const openOurs = () =>
  createBitrix({ webhookUrl: portal.webhookUrl(server.url), plan: { intervalMs: 1, capacity: 1_000 }, minDelayMs: 1 });

test("the SDK creates, reads, changes and lists deals in the fake", async () => {
  const sdk = openSdk();
  const call = async (method: string, params: object) =>
    (await sdk.actions.v2.call.make({ method, params: params as never })).getData()?.result as never;
  const id = (await call("crm.deal.add", { fields: { TITLE: "Гүлдер + 1 & 100%", STAGE_ID: "NEW" } })) as number;
  expect(portal.deal(id)).toMatchObject({ title: "Гүлдер + 1 & 100%", stageId: "NEW" });
  await call("crm.item.update", { entityTypeId: 2, id, fields: { stageId: "WON" } });
  expect(await call("crm.deal.get", { id })).toMatchObject({ ID: String(id), STAGE_ID: "WON" });
  for (let index = 0; index < 120; index++) portal.addDeal({ title: `Заказ ${index}` });
  const seen: number[] = [];
  const pages = sdk.actions.v2.fetchList.make<{ id: number }>({
    method: "crm.item.list",
    params: { entityTypeId: 2, select: ["id", "title"] },
    idKey: "id",
    customKeyForResult: "items",
  });
  for await (const page of pages) seen.push(...page.map((row) => row.id));
  expect(seen).toEqual(portal.deals.map((deal) => deal.id));
});

test("a failed call is an error for the SDK as well", async () => {
  const sdk = openSdk();
  const failed = await sdk.actions.v2.call.make({ method: "crm.item.get", params: { entityTypeId: 2, id: 1 } }).then(
    (answer) => answer.isSuccess,
    () => false,
  );
  expect(failed).toBe(false);
});

test("one create whose reply is lost: ours makes one deal", { timeout: 60_000 }, async () => {
  const lose = () =>
    portal.faults.add({
      fault: { kind: "failAfterExecuting", status: 502 },
      times: 2,
      match: (request) => request.url.includes("crm.item.add"),
    });
  lose();
  await openOurs().deals.add({ originatorId: "shop", originId: "order-1", fields: { title: "Роза" } });
  expect(portal.deals).toHaveLength(1);

  portal.faults.clear();
  lose();
  const sdk = openSdk();
  await sdk.actions.v2.call
    .make({ method: "crm.item.add", params: { entityTypeId: 2, fields: { title: "Роза", originId: "order-2" } } })
    .catch(() => undefined);
  const made = portal.deals.filter(({ fields }) => fields.originId === "order-2").length;
  process.stdout.write(`one create with two lost replies: ours 1 deal, @bitrix24/b24jssdk ${made}\n`);
  expect(made).toBeGreaterThan(1);
});

test("500 updates with 25 bad ids: ours names 25 failures and carries out 475", { timeout: 60_000 }, async () => {
  const ids = Array.from({ length: 500 }, (_, index) => (index % 20 === 7 ? 1 : portal.addDeal({}).id));
  const commands = ids.map((id) => ({ method: "crm.deal.update", parameters: { id, fields: { STAGE_ID: "WON" } } }));
  const items = await openOurs().batch(commands);
  expect(items.filter(({ state }) => state === "failed")).toHaveLength(25);
  expect(items.flatMap((item, index) => (item.state === "failed" ? [index % 20] : []))).toEqual(Array(25).fill(7));
  expect(items.filter(({ state }) => state === "done")).toHaveLength(475);
  expect(portal.deals.filter(({ stageId }) => stageId === "WON")).toHaveLength(475);

  for (const { id } of portal.deals) portal.moveDeal(id, "NEW");
  const sdk = openSdk();
  const answer = await sdk.actions.v2.batchByChunk
    .make({
      calls: commands.map(({ method, parameters }) => [method, parameters]) as never,
      options: { isHaltOnError: false },
    })
    .then(
      (result) =>
        `success ${result.isSuccess}, ${(result.getData() ?? []).length} results, ${result.getErrorMessages().length} errors`,
      (error) => `threw ${(error as { code?: string }).code}`,
    );
  process.stdout.write(`500 updates with 25 bad ids, @bitrix24/b24jssdk: ${answer}\n`);
  const done = portal.deals.filter(({ stageId }) => stageId === "WON").length;
  process.stdout.write(`500 updates with 25 bad ids, @bitrix24/b24jssdk carried out ${done}\n`);
});
