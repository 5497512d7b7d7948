// The fake portal against the vendor's documents, by plain requests: what our client makes of it is tested elsewhere.
// "REST API limits", apidocs.bitrix24.ru (read 2026-08); where the sources differ, each reading.
import { describe, expect, test } from "vitest";
import { batch, call, grant, origin, secretPath, send, setUp } from "./fake-requests.ts";

describe("requests by the leaky bucket", () => {
  test.each([
    ["all other plans", { perSecond: 2, capacity: 50 }],
    ["Enterprise", { perSecond: 5, capacity: 250 }],
  ])("%s: so many at once, then as many as leaked; the refusal's body is exact", async (_plan, bucket) => {
    const { clock, fake } = setUp({ bucket, costs: {} });
    for (let index = 0; index < bucket.capacity; index++) expect((await call(fake, "profile")).status).toBe(200);
    const refused = await fake.handle(new Request(`${origin}${secretPath}/profile`));
    expect([refused.status, await refused.text()]).toEqual([
      503,
      '{"error":"QUERY_LIMIT_EXCEEDED","error_description":"Too many requests"}',
    ]);
    clock.advance(1000);
    const statuses = [];
    for (let index = 0; index <= bucket.perSecond; index++) statuses.push((await call(fake, "profile")).status);
    expect(statuses).toEqual([...Array(bucket.perSecond).fill(200), 503]);
    expect(fake.refusals.rate).toBe(2);
  });

  test("all credentials of one address share it, and another address has its own", async () => {
    const { fake } = setUp({ bucket: { perSecond: 2, capacity: 3 } });
    const token = await grant(fake);
    expect((await call(fake, "profile")).status).toBe(200);
    expect((await send(fake, `/rest/profile?auth=${token}`)).status).toBe(200);
    expect((await send(fake, "/rest/1/wrong-secret/profile")).body.error).toBe("INVALID_CREDENTIALS");
    expect((await call(fake, "profile")).body.error).toBe("QUERY_LIMIT_EXCEEDED");
    const elsewhere = { headers: { "x-forwarded-for": "203.0.113.7" } };
    expect((await send(fake, `${secretPath}/profile`, elsewhere)).status).toBe(200);
  });

  test("a batch is one request", async () => {
    const { fake } = setUp({ bucket: { perSecond: 2, capacity: 1 } });
    const { body } = await batch(
      fake,
      Object.fromEntries(Array.from({ length: 50 }, (_, at) => [`c${at}`, "profile"])),
    );
    expect(Object.keys(body.result.result)).toHaveLength(50);
    expect((await call(fake, "profile")).status).toBe(503);
  });
});

describe("running time", () => {
  const costs = { "crm.item.update": 3, "crm.item.get": 0.1, "crm.item.list": 0.06 };
  const update = (id: number) => ({ entityTypeId: 2, id, fields: { title: "x" } });
  const command = (id: number) => `crm.item.update?entityTypeId=2&id=${id}&fields[title]=x`;

  test("the call that crosses the limit completes, the next one is refused, others go on", async () => {
    const { fake } = setUp({ costs, operatingLimitSeconds: 5 });
    const { id } = fake.addDeal({});
    const first = await call(fake, "crm.item.update", update(id));
    expect(first.body.time).toMatchObject({ operating: 3, processing: 3 });
    expect((await call(fake, "crm.item.update", update(id))).status).toBe(200);
    expect(await call(fake, "crm.item.update", update(id))).toEqual({
      status: 429,
      body: { error: "OPERATION_TIME_LIMIT", error_description: "Method is blocked due to operation time limit." },
    });
    expect((await call(fake, "crm.item.get", { entityTypeId: 2, id })).status).toBe(200);
  });

  test("minutes leave the sum one by one: what was used in a minute is free ten minutes after it began", async () => {
    const { clock, fake } = setUp({ costs, operatingLimitSeconds: 5 });
    const { id } = fake.addDeal({});
    const resetAt = new Date("2026-11-02T09:10:00Z").getTime() / 1000;
    expect((await call(fake, "crm.item.update", update(id))).body.time.operating_reset_at).toBe(resetAt);
    clock.advance(60_000);
    const second = await call(fake, "crm.item.update", update(id));
    expect(second.body.time).toMatchObject({ operating: 6, operating_reset_at: resetAt });
    clock.advance(new Date("2026-11-02T09:09:59Z").getTime() - clock.now().getTime());
    expect((await call(fake, "crm.item.update", update(id))).status).toBe(429);
    clock.advance(1000);
    expect((await call(fake, "crm.item.update", update(id))).body.time.operating).toBe(6);
  });

  test("0.1 s and less in a request are not recorded, however often", async () => {
    const { fake } = setUp({ costs, operatingLimitSeconds: 5 });
    const { id } = fake.addDeal({});
    for (let index = 0; index < 100; index++) await call(fake, "crm.item.get", { entityTypeId: 2, id });
    expect(fake.operatingOf("crm.item.get")).toBe(0);
    // Two pages in one request are.
    await batch(fake, { a: "crm.item.list?entityTypeId=2", b: "crm.item.list?entityTypeId=2" });
    expect(fake.operatingOf("crm.item.list")).toBeCloseTo(0.12);
  });

  test("in a batch by the documents: each command under its own method, checked one by one", async () => {
    const { fake } = setUp({ costs, operatingLimitSeconds: 5 });
    const { id } = fake.addDeal({});
    const { body } = await batch(fake, { a: command(id), b: command(id), c: command(id), d: "profile" });
    expect(Object.keys(body.result.result)).toEqual(["a", "b", "d"]);
    expect(body.result.result_error.c.error).toBe("OPERATION_TIME_LIMIT");
    expect([body.result.result_time.a.operating, body.result.result_time.b.operating]).toEqual([3, 6]);
    expect(fake.operatingOf("batch")).toBe(0);
    expect((await call(fake, "crm.item.update", update(id))).status).toBe(429);
  });

  test("in a batch as measured: under batch at half weight, all commands with the same sum", async () => {
    const { fake } = setUp({ costs, operatingLimitSeconds: 5, batchAccounting: "batch" });
    const { id } = fake.addDeal({});
    const four = { a: command(id), b: command(id), c: command(id), d: command(id) };
    const { body } = await batch(fake, four);
    const told = ["a", "b", "c", "d"].map((key) => body.result.result_time[key].operating);
    expect([...told, body.time.operating]).toEqual([6, 6, 6, 6, 6]);
    expect([fake.operatingOf("batch"), fake.operatingOf("crm.item.update")]).toEqual([6, 0]);
    expect((await batch(fake, four)).body.error).toBe("OPERATION_TIME_LIMIT");
    expect((await call(fake, "crm.item.update", update(id))).status).toBe(200);
  });

  test("in a batch by the source: a webhook's commands are counted apart from its single calls", async () => {
    const { fake } = setUp({ costs, operatingLimitSeconds: 5, batchAccounting: "no-credential" });
    const { id } = fake.addDeal({});
    expect(Object.keys((await batch(fake, { a: command(id), b: command(id) })).body.result.result)).toHaveLength(2);
    expect((await batch(fake, { a: command(id) })).body.result.result_error.a.error).toBe("OPERATION_TIME_LIMIT");
    expect((await call(fake, "crm.item.update", update(id))).body.time.operating).toBe(3);
  });

  test("off, as on a portal of one's own: nothing is refused, and answers tell no sum", async () => {
    const { fake } = setUp({ costs: { profile: 10_000 }, operatingLimitSeconds: "off" });
    await call(fake, "profile");
    const { status, body } = await call(fake, "profile");
    expect([status, "operating" in body.time, "operating_reset_at" in body.time]).toEqual([200, false, false]);
  });
});
