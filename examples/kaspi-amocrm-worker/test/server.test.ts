import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@orderbridge/core";
import { createKyselyStorage, openDatabase } from "@orderbridge/core/kysely";
import { createFakeClock, listen } from "@orderbridge/core/testing";
import { createFakeAmocrm, createFakeKaspi, fakeAccount } from "@orderbridge/kaspi-amocrm/testing";
import { Redis } from "ioredis";
import { afterEach, expect, test } from "vitest";
import { redisProgram, redisService, redisUrl, startRedisServer } from "../../../packages/core/test/redis-server.ts";

const cleanUps: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

const settings = {
  KASPI_TOKEN: "kaspi-token",
  AMO_ACCOUNT_HOST: fakeAccount.host,
  AMO_ACCESS_TOKEN: "amo-token",
  AMO_PIPELINE_ID: String(fakeAccount.pipelineId),
  AMO_STATUS_ID: String(fakeAccount.stageIds.new),
  AMO_CATALOG_ID: String(fakeAccount.catalogId),
  AMO_LEAD_ORDER_CODE_FIELD_ID: String(fakeAccount.orderCodeFieldId),
  AMO_STATUS_MAP: JSON.stringify({ ACCEPTED_BY_MERCHANT: String(fakeAccount.stageIds.accepted) }),
  AMO_WEBHOOK_SECRET: "a-long-webhook-secret",
  CRON_SECRET: "a-long-cron-secret",
  SCHEDULE: "off",
  DATABASE_URL: "sqlite::memory:",
};

function startServer(variables: Readonly<Record<string, string>>) {
  const child: ChildProcess = spawn(process.execPath, ["server.ts"], {
    cwd: join(import.meta.dirname, ".."),
    env: { PATH: process.env.PATH, PORT: "0", LOG_LEVEL: "warn", ...variables },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  child.stderr?.on("data", (chunk: Buffer) => {
    output += chunk;
  });
  const ended = new Promise<{ code: number | null; output: string }>((resolve) =>
    child.once("close", (code) => resolve({ code, output })),
  );
  const url = new Promise<string>((resolve, reject) => {
    child.stdout?.on("data", (chunk: Buffer) => {
      const found = /listening on (\S+)/.exec(String(chunk))?.[1];
      if (found) resolve(found);
    });
    void ended.then((end) => reject(new Error(end.output)));
  });
  url.catch(() => undefined);
  const stop = async () => {
    child.kill("SIGTERM");
    return ended;
  };
  return { url, ended, stop };
}

test("cron calls import and reconcile; the secret guards them; the webhook needs its path", async () => {
  const kaspi = createFakeKaspi({ clock: systemClock });
  const amocrm = createFakeAmocrm({ clock: systemClock });
  const [kaspiPort, amocrmPort] = await Promise.all([listen(kaspi.handle), listen(amocrm.handle)]);
  cleanUps.push(kaspiPort.close, amocrmPort.close);
  const server = startServer({ ...settings, KASPI_API_URL: kaspiPort.url, AMO_API_URL: amocrmPort.url });
  cleanUps.push(async () => void (await server.stop()));
  const url = await server.url;
  kaspi.addOrder({ code: "700000001", cellPhone: "7010000001", entries: [{ sku: "A", basePrice: 100, quantity: 2 }] });

  const imported = await fetch(`${url}/cron?task=new&token=${settings.CRON_SECRET}`);
  expect([imported.status, await imported.json()]).toEqual([
    200,
    expect.objectContaining({ task: "new", ok: true, seen: 1, created: 1 }),
  ]);
  expect(amocrm.leadOf("700000001")).toMatchObject({ price: 200, statusId: fakeAccount.stageIds.new });

  kaspi.changeOrder("700000001", { state: "KASPI_DELIVERY", status: "ACCEPTED_BY_MERCHANT" });
  const headers = { "x-cron-secret": settings.CRON_SECRET };
  expect((await fetch(`${url}/cron?task=reconcile`, { headers })).status).toBe(200);
  expect(amocrm.leadOf("700000001")?.statusId).toBe(fakeAccount.stageIds.accepted);

  const status = await fetch(`${url}/status`, { headers });
  expect(await status.json()).toMatchObject({ orders: { done: 1 }, parked: [], shops: [{ shop: "default" }] });
  expect((await fetch(`${url}/cron?task=new`)).status).toBe(401);
  expect((await fetch(`${url}/cron?task=new&token=wrong`)).status).toBe(401);
  expect((await fetch(`${url}/cron?task=all`, { headers })).status).toBe(422);
  expect((await fetch(`${url}/healthz`)).status).toBe(200);
  const body = new URLSearchParams({ "leads[status][0][id]": "1", "account[id]": "2" });
  expect((await fetch(`${url}/amocrm/webhook/wrong`, { method: "POST", body })).status).toBe(404);
  const looks = () => amocrm.journal.count(/^GET \/api\/v4\/leads\?/);
  const before = looks();
  const hook = await fetch(`${url}/amocrm/webhook/${settings.AMO_WEBHOOK_SECRET}`, { method: "POST", body });
  expect(hook.status).toBe(200);
  expect((await fetch(`${url}/cron?task=new`, { headers })).status).toBe(200);
  await expect.poll(() => looks() - before, { timeout: 15_000 }).toBe(1); // by cron, or by the job that was quicker
  expect((await server.stop()).code).toBe(0);
});

test("variables that do not fit are named and end the start with exit code 1", async () => {
  const { code, output } = await startServer({
    ...settings,
    KASPI_TOKEN: "replace-me",
    AMO_ACCOUNT_HOST: "evil.example",
    AMO_STATUS_MAP: '{"COMPLETED": "won"}',
  }).ended;
  expect(code).toBe(1);
  expect(output).toContain("KASPI_TOKEN still holds the placeholder");
  expect(output).toContain('AMO_STATUS_MAP is wrong at "COMPLETED"');
  expect(output).not.toMatch(/\n\s+at /);
});

test("a stage that the account does not have is named at start", async () => {
  const amocrm = createFakeAmocrm({ clock: systemClock });
  const port = await listen(amocrm.handle);
  cleanUps.push(port.close);
  const { code, output } = await startServer({ ...settings, AMO_API_URL: port.url, AMO_STATUS_ID: "5" }).ended;
  expect(code).toBe(1);
  expect(output).toContain("statusId 5 is not a stage of the pipeline; choose one of");
});

test("encrypts the tokens at rest and forgets OAuth states that were used long ago", async () => {
  const folder = mkdtempSync(join(tmpdir(), "orderbridge-worker-"));
  cleanUps.push(async () => rmSync(folder, { recursive: true, force: true }));
  const databaseUrl = `sqlite:${join(folder, "worker.db")}`;
  const database = await openDatabase(databaseUrl);
  cleanUps.push(() => database.close());
  const storage = createKyselyStorage({ ...database, clock: createFakeClock("2026-01-01T00:00:00Z") });
  await storage.migrate();
  await storage.idempotency.begin({ scope: "amocrm state", key: "old", fingerprint: "", ttlMs: 1000 });
  const amocrmPort = await listen(createFakeAmocrm({ clock: systemClock }).handle);
  cleanUps.push(amocrmPort.close);
  const server = startServer({
    ...settings,
    DATABASE_URL: databaseUrl,
    ENCRYPTION_KEYS: "2026:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA=",
    AMO_API_URL: amocrmPort.url,
    AMO_CLIENT_ID: "client-id",
    AMO_CLIENT_SECRET: "client-secret",
    AMO_REDIRECT_URI: "https://worker.example/oauth/callback",
    AMO_REFRESH_TOKEN: "amo-refresh",
  });
  cleanUps.push(async () => void (await server.stop()));
  await server.url;
  const tokens = await database.db.selectFrom("orderbridge_token").selectAll().execute();
  expect(tokens).toMatchObject([
    { access_token: expect.stringMatching(/^enc1\.2026\./), refresh_token: expect.stringMatching(/^enc1\.2026\./) },
  ]);
  await expect
    .poll(() => database.db.selectFrom("orderbridge_idempotency").selectAll().execute(), { timeout: 10_000 })
    .toEqual([]);
});

test.skipIf(redisService.skipped)(
  `with REDIS_URL the budgets of both vendors are kept in ${redisService.name}`,
  async () => {
    const address = new URL("/9", redisUrl).href; // a database of its own
    const redis = new Redis(address);
    cleanUps.push(async () => {
      await redis.flushdb();
      redis.disconnect();
    });
    const [kaspiPort, amocrmPort] = await Promise.all(
      [createFakeKaspi, createFakeAmocrm].map((createFake) => listen(createFake({ clock: systemClock }).handle)),
    );
    cleanUps.push(async () => void (await Promise.all([kaspiPort?.close(), amocrmPort?.close()])));
    const vendors = { KASPI_API_URL: kaspiPort?.url ?? "", AMO_API_URL: amocrmPort?.url ?? "" };
    const server = startServer({ ...settings, ...vendors, REDIS_URL: address });
    const imported = await fetch(`${await server.url}/cron?task=new&token=${settings.CRON_SECRET}`);
    expect(imported.status).toBe(200);
    expect((await redis.keys("orderbridge:rate:*")).sort()).toEqual([
      expect.stringContaining("amocrm"),
      expect.stringContaining("kaspi"),
    ]);
    expect((await server.stop()).code).toBe(0);
  },
);

test.skipIf(redisProgram.skipped)(
  `two workers share the jobs through BullMQ, and FLUSHALL in the middle of an import loses nothing (${redisProgram.name})`,
  { timeout: 60_000 },
  async () => {
    const redisServer = await startRedisServer();
    cleanUps.push(() => redisServer.remove());
    const redis = new Redis(redisServer.url);
    cleanUps.push(async () => redis.disconnect());
    const folder = mkdtempSync(join(tmpdir(), "orderbridge-worker-"));
    cleanUps.push(async () => rmSync(folder, { recursive: true, force: true }));
    const databaseUrl = `sqlite:${join(folder, "worker.db")}`;
    const database = await openDatabase(databaseUrl);
    cleanUps.push(() => database.close());
    await createKyselyStorage(database).migrate();

    const kaspi = createFakeKaspi({ clock: systemClock });
    const amocrm = createFakeAmocrm({ clock: systemClock });
    const { promise: flushed, resolve: goOn } = Promise.withResolvers<void>();
    let created = 0;
    const [kaspiPort, amocrmPort] = await Promise.all([
      listen(kaspi.handle),
      listen(async (request) => {
        const creates = request.method === "POST" && new URL(request.url).pathname.endsWith("/leads");
        if (creates && created++ === 0) await flushed;
        return amocrm.handle(request);
      }),
    ]);
    cleanUps.push(kaspiPort.close, amocrmPort.close);
    const entries = [{ sku: "LAMP", name: "Шам", basePrice: 100 }];
    kaspi.addOrder({ code: "700000001", cellPhone: "7010000001", entries });
    kaspi.addOrder({ code: "700000002", cellPhone: "7010000002", entries });

    const variables = {
      ...settings,
      SCHEDULE: "on",
      DATABASE_URL: databaseUrl,
      REDIS_URL: redisServer.url,
      KASPI_API_URL: kaspiPort.url,
      AMO_API_URL: amocrmPort.url,
      IMPORT_FROM: new Date(Date.now() - 3_600_000).toISOString(),
    };
    const workers = [startServer(variables), startServer(variables)];
    cleanUps.push(async () => void (await Promise.all(workers.map((worker) => worker.stop()))));
    await Promise.all(workers.map(({ url }) => url));
    await expect.poll(() => created, { timeout: 20_000 }).toBe(1);
    // One entry for each job, named as its lease, without data.
    const jobKeys = async () => (await redis.keys("{kaspi-amocrm}:jobs:job *")).filter((key) => !key.endsWith(":lock"));
    const names = ["handleEvents", "importNew", "prune", "reconcile"].map(
      (name) => `{kaspi-amocrm}:jobs:job kaspi-amocrm ${name}`,
    );
    expect((await jobKeys()).sort()).toEqual(names);
    for (const key of names) expect(await redis.hget(key, "data")).toBe("{}");

    await redis.flushall();
    goOn();
    await expect.poll(() => amocrm.leads.length, { timeout: 20_000 }).toBe(2);
    await expect.poll(async () => (await jobKeys()).sort(), { timeout: 20_000 }).toEqual(names);

    // The minute passes: its lease in SQL says so, and the queue that was filled anew brings the next order.
    kaspi.addOrder({ code: "700000003", cellPhone: "7010000001", entries });
    await redis.flushall();
    await database.db
      .deleteFrom("orderbridge_lease")
      .where("name", "=", "job kaspi-amocrm importNew interval")
      .execute();
    await expect.poll(() => amocrm.leads.length, { timeout: 20_000 }).toBe(3);
    expect(amocrm.leads.map(({ name }) => name).sort()).toEqual([
      "Kaspi 700000001",
      "Kaspi 700000002",
      "Kaspi 700000003",
    ]);

    const [lead] = amocrm.leads;
    amocrm.moveLead(lead?.id as number, fakeAccount.stageIds.delivery);
    const hook = `${await workers[0]?.url}/amocrm/webhook/${settings.AMO_WEBHOOK_SECRET}`;
    const body = new URLSearchParams({ "leads[status][0][id]": String(lead?.id) });
    expect((await fetch(hook, { method: "POST", body })).status).toBe(200);
    const seenStages = async () => {
      const rows = await database.db.selectFrom("kaspi_amocrm_order").select(["lead_id", "seen_stage_id"]).execute();
      return rows.filter(({ lead_id }) => lead_id === String(lead?.id)).map(({ seen_stage_id }) => seen_stage_id);
    };
    await expect.poll(seenStages, { timeout: 20_000 }).toEqual([String(fakeAccount.stageIds.delivery)]);
    await expect.poll(() => database.db.selectFrom("kaspi_amocrm_event").selectAll().execute()).toEqual([]);
    expect((await Promise.all(workers.map((worker) => worker.stop()))).map(({ code }) => code)).toEqual([0, 0]);
  },
);
