import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { type FetchHandler, silentLogger } from "@orderbridge/core";
import { listen } from "@orderbridge/core/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  type BitrixStorage,
  createEventHandler,
  createOrderStatusHandler,
  createOrders,
  createProductSync,
  createWorker,
  dealTopic,
  type ProductSync,
  productTopic,
} from "../src/index.ts";
import { createBitrixMemoryStorage } from "../src/memory/index.ts";

const secret = "site-webhook-secret";
const applicationToken = "token-of-the-portal";
const siteToken = "site-token";
const productId = "668826";
const endpointPath = "/api/v2/products/update-from-railway";

function hasPhp(): boolean {
  try {
    execFileSync("php", ["--version"]);
    return true;
  } catch {
    if (process.env.REQUIRE_SERVICES === "1") throw new Error("php is missing");
    return false;
  }
}

/** A site with the drop-ins beside our receivers, each on a port. */
let folder: string;
let root: string;
let storage: BitrixStorage;
let orders: ReturnType<typeof createOrders>;
let products: ProductSync;
let orderId: string;
/** The backend's answers by path; `status` 0 in place of a handler: unreachable. */
let handlers: Record<string, FetchHandler>;
let received: { path: string; body: string }[];
let stop: (() => Promise<void>)[];
let siteUrl: string;

const database = () => join(folder, "site.json");
const environment = () => ({ ...process.env, SITE_DATABASE: database() });
const log = () => join(folder, "log");
/** Warnings of PHP itself come on stderr, the drop-ins' own lines in the log. */
const php = () => ["-d", "display_errors=stderr", "-d", "log_errors=0", "-d", `error_log=${log()}`];

/** One hit of the site; what it prints. Background jobs run at its end. */
async function hit(code: string): Promise<string> {
  const prologue = `$_SERVER["DOCUMENT_ROOT"] = '${root}'; require '${root}/bitrix/modules/main/include/prolog_before.php';`;
  const { stdout, stderr } = await promisify(execFile)("php", [...php(), "-r", `${prologue} ${code}`], {
    env: environment(),
  });
  expect(stderr).toBe("");
  return stdout;
}

/** What cron runs. */
async function cron(): Promise<string> {
  const script = join(root, "local/php_interface/orderbridge/send.php");
  return (await promisify(execFile)("php", [...php(), script], { env: environment() })).stdout.trim();
}

const saveOrder = (fields: Record<string, string>, id = 123456) =>
  hit(
    `$order = \\Bitrix\\Sale\\Order::load(${id}); ${Object.entries(fields)
      .map(([name, value]) => `$order->setField("${name}", "${value}");`)
      .join(" ")} $order->save();`,
  );

const rows = (state: "due" | "dead"): readonly string[] => {
  try {
    return readdirSync(join(folder, "data", state)).filter((name) => name.endsWith(".json"));
  } catch {
    return [];
  }
};

/** Lets the pause before the next attempt be over, and more. */
function age(name: string, change: Record<string, number> = {}): void {
  const file = join(folder, "data/due", name);
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), dueAtMs: 0, ...change }));
}

function editSite(change: (site: Record<string, Record<string, Record<string, unknown>>>) => void): void {
  const site = JSON.parse(readFileSync(database(), "utf8"));
  change(site);
  writeFileSync(database(), JSON.stringify(site));
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address ? address.port : 0;
}

/** PHP's own web server on the site; resolves when it answers. */
async function serveSite(): Promise<string> {
  const url = `http://127.0.0.1:${await freePort()}`;
  const server: ChildProcess = spawn("php", [...php(), "-S", new URL(url).host, "-t", root], { env: environment() });
  const closed = new Promise<void>((resolve) => server.once("exit", () => resolve()));
  stop.push(async () => {
    server.kill();
    await closed;
  });
  await new Promise<void>((resolve, reject) => {
    server.once("exit", () => reject(new Error("php did not start")));
    server.stderr?.on("data", (data: Buffer) => data.includes("started") && resolve());
  });
  return url;
}

const put = async (body: unknown, headers: Record<string, string> = { authorization: `Bearer ${siteToken}` }) => {
  const answer = await fetch(siteUrl + endpointPath, {
    method: "PUT",
    headers,
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return { status: answer.status, body: (await answer.json()) as Record<string, unknown> };
};

describe.skipIf(!hasPhp())("drop-ins for the boxed site and portal", () => {
  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "orderbridge-site-"));
    root = join(folder, "www");
    stop = [];
    received = [];
    storage = createBitrixMemoryStorage();
    orders = createOrders({ storage });
    orderId = (await orders.create({ total: "1000", bitrixOrderId: "123456" })).id;

    const backend = await listen(async (request) => {
      const path = new URL(request.url).pathname;
      received.push({ path, body: await request.clone().text() });
      return (await handlers[path]?.(request)) ?? new Response(null, { status: 404 });
    });
    stop.push(() => backend.close());

    const drop = join(root, "local/php_interface/orderbridge");
    cpSync(join(import.meta.dirname, "../php"), drop, { recursive: true });
    writeFileSync(
      join(drop, "config.php"),
      `<?php return ['backendUrl' => '${backend.url}', 'webhookSecret' => '${secret}', 'dataDir' => '${folder}/data',
        'orders' => true, 'products' => ['iblockIds' => [5], 'siteToken' => '${siteToken}'],
        'deals' => ['applicationToken' => '${applicationToken}']];`,
    );
    writeFileSync(join(root, "local/php_interface/init.php"), "<?php require_once __DIR__ . '/orderbridge/init.php';");
    mkdirSync(join(root, "bitrix/modules/main/include"), { recursive: true });
    const prologue = join(import.meta.dirname, "php/prolog_before.php");
    writeFileSync(join(root, "bitrix/modules/main/include/prolog_before.php"), `<?php require_once '${prologue}';`);
    mkdirSync(join(root, endpointPath), { recursive: true });
    writeFileSync(
      join(root, endpointPath, "index.php"),
      `<?php require $_SERVER['DOCUMENT_ROOT'] . '/local/php_interface/orderbridge/endpoint.php';`,
    );
    const order = { STATUS_ID: "N", PAYED: "N", CANCELED: "N" };
    writeFileSync(
      database(),
      JSON.stringify({
        orders: { 123456: order, 777: order },
        products: { [productId]: { ID: productId, IBLOCK_ID: "5", NAME: "Эустомы", ACTIVE: "Y" } },
        prices: {
          1: { ID: 1, PRODUCT_ID: Number(productId), CATALOG_GROUP_ID: 1, PRICE: "4500.0000", CURRENCY: "KZT" },
          2: { ID: 2, PRODUCT_ID: Number(productId), CATALOG_GROUP_ID: 2, PRICE: "4000.0000", CURRENCY: "KZT" },
        },
      }),
    );
    siteUrl = "http://127.0.0.1:9";
  });

  function serveBackend(): void {
    products = createProductSync({ storage, siteUrl, siteToken, secrets: [secret], logger: silentLogger });
    handlers = {
      "/api/v1/webhooks/order-status-sync": createOrderStatusHandler({
        storage,
        secrets: [secret],
        logger: silentLogger,
      }),
      "/api/v1/webhooks/product-sync": products.handle,
      "/bitrix/events": createEventHandler({
        storage,
        applicationTokens: [applicationToken],
        logger: silentLogger,
      }),
    };
  }

  beforeEach(serveBackend);

  afterEach(async () => {
    for (const close of stop.reverse()) await close();
    rmSync(folder, { recursive: true, force: true });
  });

  describe("orders", () => {
    test("a new status is here as soon as the manager's hit has ended, and is told once", async () => {
      await saveOrder({ STATUS_ID: "AP" });
      expect(await orders.get(orderId)).toMatchObject({ status: "accepted", siteVersion: expect.any(Number) });
      expect(received).toHaveLength(1);
      expect(rows("due")).toEqual([]);
      await saveOrder({}); // saved again, nothing changed
      expect(received).toHaveLength(1);
    });

    test("a payment and a cancellation arrive, each in either direction", async () => {
      await saveOrder({ PAYED: "Y" });
      expect((await orders.get(orderId))?.paidAt).toBeInstanceOf(Date);
      await saveOrder({ PAYED: "N" });
      expect((await orders.get(orderId))?.paidAt).toBeUndefined();
      await saveOrder({ CANCELED: "Y" });
      expect((await orders.get(orderId))?.status).toBe("cancelled");
    });

    test("while the backend is down the site goes on, and the last state is told by cron", async () => {
      handlers = { "/api/v1/webhooks/order-status-sync": async () => new Response(null, { status: 502 }) };
      await saveOrder({ STATUS_ID: "AP" });
      await saveOrder({ STATUS_ID: "CO" });
      expect(rows("due")).toEqual(["order-123456.json"]);
      serveBackend();
      expect(await cron()).toBe("sent: 0"); // the pause is not over
      age("order-123456.json");
      expect(await cron()).toBe("sent: 1");
      expect((await orders.get(orderId))?.status).toBe("in_production");
      expect(rows("due")).toEqual([]);
    });

    test("after a long outage nothing waits for hours, an unknown order does", async () => {
      const pauseAfter = async (status: number) => {
        handlers = { "/api/v1/webhooks/order-status-sync": async () => new Response(null, { status }) };
        await saveOrder({ STATUS_ID: "AP" });
        age("order-123456.json", { attempts: 30 });
        const from = Date.now();
        await cron();
        const { dueAtMs } = JSON.parse(readFileSync(join(folder, "data/due/order-123456.json"), "utf8"));
        return Math.round((dueAtMs - from) / 60_000);
      };
      expect([await pauseAfter(503), await pauseAfter(404)]).toEqual([10, 360]);
    });

    test("what the backend refuses for good is set aside at once, an unknown order after a week", async () => {
      await saveOrder({ STATUS_ID: "TOO_LONG" });
      expect([rows("due"), rows("dead")]).toEqual([[], ["order-123456.json"]]);
      await saveOrder({ STATUS_ID: "AP" }, 777);
      expect(rows("due")).toEqual(["order-777.json"]);
      age("order-777.json", { markedAtMs: 0 });
      await cron();
      expect(rows("dead")).toEqual(["order-123456.json", "order-777.json"]);
    });

    test("an older state that comes late does not overwrite a newer one, also when the folder was lost", async () => {
      await saveOrder({ STATUS_ID: "AP" });
      const older = received[0]?.body ?? "";
      rmSync(join(folder, "data"), { recursive: true });
      await saveOrder({ STATUS_ID: "DE" });
      expect((await orders.get(orderId))?.status).toBe("in_delivery");
      expect(JSON.parse(received[1]?.body ?? "").version).toBeGreaterThan(JSON.parse(older).version);
    });

    test("a change that came from the backend is not told back, one of another order meanwhile is", async () => {
      await orders.create({ total: "1000", bitrixOrderId: "777" });
      await hit(`
        $order = \\Bitrix\\Sale\\Order::load(123456);
        $order->setField("STATUS_ID", "AP");
        \\Orderbridge\\Bridge::instance()->guard->during("order:123456", function () use ($order) {
          $other = \\Bitrix\\Sale\\Order::load(777);
          $other->setField("STATUS_ID", "CO");
          $other->save();
          $order->save();
        });`);
      expect(received.map(({ body }) => JSON.parse(body).order_id)).toEqual([777]);
    });

    test("a change that another process looked for before it was committed is still told", async () => {
      // The cron run in the middle reads what it can see: the order as it was.
      const script = join(root, "local/php_interface/orderbridge/send.php");
      await saveOrder({ STATUS_ID: "CO" }); // known to the backend
      await hit(`
        $before = file_get_contents('${database()}');
        $order = \\Bitrix\\Sale\\Order::load(123456);
        $order->setField("STATUS_ID", "DE");
        $order->save();
        $after = file_get_contents('${database()}');
        file_put_contents('${database()}', $before);
        foreach (glob('${folder}/data/due/*.json') as $file) { // the grace is over: the hit is slow
          file_put_contents($file, json_encode(['dueAtMs' => 0] + json_decode(file_get_contents($file), true)));
        }
        exec('php ${script}');
        file_put_contents('${database()}', $after);`);
      expect((await orders.get(orderId))?.status).toBe("in_delivery");
      expect(rows("due")).toEqual([]);
    });

    test("a state that was taken over, its answer lost, undoes nothing when the order is saved again", async () => {
      const path = "/api/v1/webhooks/order-status-sync";
      const receive = handlers[path] as FetchHandler;
      handlers[path] = async (request) => {
        await receive(request);
        return new Response(null, { status: 502 });
      };
      await saveOrder({ STATUS_ID: "AP" });
      expect((await orders.get(orderId))?.status).toBe("accepted");
      await orders.change(orderId, { status: "delivered" }, { changedBy: "bitrix24" }); // the deal is won
      handlers[path] = receive;
      await saveOrder({}); // a comment only
      expect(received.map(({ body }) => JSON.parse(body).status)).toEqual(["AP", "AP"]);
      expect((await orders.get(orderId))?.status).toBe("delivered");
      expect(rows("due")).toEqual([]);
    });

    test("cron leaves alone what a hit that still runs has noted", async () => {
      const script = join(root, "local/php_interface/orderbridge/send.php");
      const printed = await hit(`\\Bitrix\\Sale\\Order::load(123456)->save(); echo shell_exec('php ${script}');`);
      expect(printed).toBe("sent: 0\n");
      expect(received).toHaveLength(1); // by the hit itself, at its end
    });

    test("a hit that is killed between the event and the sending is told by cron", async () => {
      const killed = hit(`
        $order = \\Bitrix\\Sale\\Order::load(123456);
        $order->setField("STATUS_ID", "AP");
        $order->save();
        posix_kill(getmypid(), 9);`);
      await expect(killed).rejects.toMatchObject({ signal: "SIGKILL" });
      expect([received, rows("due")]).toEqual([[], ["order-123456.json"]]);
      expect(await cron()).toBe("sent: 0"); // it might still run
      age("order-123456.json");
      expect(await cron()).toBe("sent: 1");
      expect((await orders.get(orderId))?.status).toBe("accepted");
    });

    test("hits side by side lose nothing: each order arrives as it was left", async () => {
      const codes = ["N", "PD", "AP", "CO", "DE", "F"];
      const statuses = ["new", "paid", "accepted", "in_production", "in_delivery", "delivered"];
      const ids = codes.map((_, index) => 1000 + index);
      editSite((site) => {
        for (const id of ids) Object.assign(site.orders ?? {}, { [id]: { STATUS_ID: "N", PAYED: "N", CANCELED: "N" } });
      });
      const known = [];
      for (const id of ids) known.push(await orders.create({ total: "1", bitrixOrderId: String(id) }));
      // Each hit moves all orders through all statuses; which one comes last is told by the site's own data.
      await Promise.all(
        [0, 1, 2].map((turn) =>
          hit(`foreach ([${ids.join(",")}] as $index => $id) {
            $order = \\Bitrix\\Sale\\Order::load($id);
            $order->setField("STATUS_ID", ["${codes.join('","')}"][($index + ${turn}) % 6]);
            $order->save();
          }`),
        ),
      );
      for (const name of rows("due")) age(name);
      await cron();
      const site = JSON.parse(readFileSync(database(), "utf8"));
      for (const [index, id] of ids.entries()) {
        const order = known[index] as { readonly id: string };
        expect((await orders.get(order.id))?.status).toBe(statuses[codes.indexOf(site.orders[id].STATUS_ID)]);
      }
      expect([rows("due"), rows("dead")]).toEqual([[], []]);
    });

    test("what changes while its former state is being sent is sent after it", async () => {
      const path = "/api/v1/webhooks/order-status-sync";
      const receive = handlers[path] as FetchHandler;
      handlers[path] = async (request) => {
        handlers[path] = receive;
        const answer = await receive(request);
        await saveOrder({ STATUS_ID: "F" }); // the manager is quick, and this hit may not send: the other one does
        return answer;
      };
      await saveOrder({ STATUS_ID: "AP" });
      expect(received.map(({ body }) => JSON.parse(body).status)).toEqual(["AP", "F"]);
      expect((await orders.get(orderId))?.status).toBe("delivered");
    });

    test("a note that cannot be removed is an error, not sent again and again", async () => {
      await saveOrder({ STATUS_ID: "AP" });
      mkdirSync(join(folder, "data/due/order-123456.json"));
      await expect(cron()).rejects.toThrow("dataDir cannot be written to");
      expect(received).toHaveLength(1);
    });

    test("the site goes on when a file of the drop-ins cannot be read by its PHP", async () => {
      writeFileSync(
        join(root, "local/php_interface/orderbridge/lib/Bridge.php"),
        "<?php final class Bridge { of PHP 9",
      );
      expect(await hit(`\\Bitrix\\Sale\\Order::load(777)->save(); echo "saved";`)).toBe("saved");
      expect(readFileSync(log(), "utf8")).toContain("[orderbridge] not started: syntax error");
      await expect(cron()).rejects.toThrow("orderbridge is not started");
    });

    test("a note that a power failure left empty is not lost", async () => {
      handlers = { "/api/v1/webhooks/order-status-sync": async () => new Response(null, { status: 502 }) };
      await saveOrder({ STATUS_ID: "AP" });
      writeFileSync(join(folder, "data/due/order-123456.json"), "");
      serveBackend();
      expect(await cron()).toBe("sent: 1");
      expect((await orders.get(orderId))?.status).toBe("accepted");
      expect(rows("due")).toEqual([]);
    });

    test("saving succeeds when nothing can be noted, or the settings are wrong", async () => {
      writeFileSync(join(folder, "data"), "a file in place of the folder");
      const save = `\\Bitrix\\Sale\\Order::load(777)->save(); echo "saved";`;
      expect(await hit(save)).toBe("saved");
      expect(readFileSync(log(), "utf8")).toContain(
        "order 777 was not noted: orderbridge: dataDir cannot be written to",
      );
      writeFileSync(join(root, "local/php_interface/orderbridge/config.php"), "<?php return ['orders' => true];");
      expect(await hit(save)).toBe("saved");
      expect(readFileSync(log(), "utf8")).toContain("not started: backendUrl must be set");
    });

    test("the settings refuse a folder that the web server would show", async () => {
      const config = join(root, "local/php_interface/orderbridge/config.php");
      writeFileSync(config, readFileSync(config, "utf8").replace(`${folder}/data`, `${root}/upload/data`));
      await saveOrder({ STATUS_ID: "AP" });
      expect(readFileSync(log(), "utf8")).toContain("dataDir must lie outside of the site's root");
      expect(received).toEqual([]);
    });
  });

  describe("products", () => {
    const product = () => products.get(productId);
    const rename = (name: string) => hit(`(new CIBlockElement())->Update(${productId}, ["NAME" => "${name}"]);`);

    beforeEach(async () => {
      siteUrl = await serveSite();
      serveBackend();
    });

    const push = async (change: Parameters<ProductSync["update"]>[1]) => {
      await products.update(productId, change);
      const handlers = { [productTopic]: products.push };
      await createWorker({ storage, handlers, logger: silentLogger, retryMs: 0 }).drain();
    };

    test("a name and a price changed on the site arrive here, together once", async () => {
      await hit(`(new CIBlockElement())->Update(${productId}, ["NAME" => "Розы, 25 шт."]);
        \\Bitrix\\Catalog\\Model\\Price::update(1, ["PRICE" => 5000.5, "CURRENCY" => "KZT"]);`);
      expect(await product()).toMatchObject({ name: "Розы, 25 шт.", priceMinor: 500_050n, currency: "KZT" });
      expect(received).toHaveLength(1);
    });

    test("a push changes name, price and activity, leaves other prices alone, and causes no echo", async () => {
      await rename("Эустома");
      await push({ name: "Эустомы (Updated)", priceMinor: 500_000n, enabled: false });
      const site = JSON.parse(readFileSync(database(), "utf8"));
      expect(site.products[productId]).toMatchObject({ NAME: "Эустомы (Updated)", ACTIVE: "N" });
      expect(site.prices[1]).toMatchObject({ PRICE: "5000.0000", CURRENCY: "KZT" });
      expect(site.prices[2]).toMatchObject({ PRICE: "4000.0000" });
      expect(received).toHaveLength(1);
      expect(await product()).toMatchObject({ pending: false, enabled: false });
    });

    test("when both sides changed it the site wins, also over a change that raised no event", async () => {
      await rename("Эустома");
      editSite(({ prices }) => Object.assign(prices?.[1] ?? {}, { PRICE: "6000.0000" })); // an import by SQL
      await push({ priceMinor: 500_000n });
      expect(await product()).toMatchObject({ priceMinor: 600_000n, pending: false });
      expect(await products.conflicts(productId)).toMatchObject([
        { ours: { priceMinor: 500_000n }, theirs: { priceMinor: 600_000n } },
      ]);
    });

    test("a handler of the shop that rewrites the pushed name wins, and is known here", async () => {
      await rename("Эустома");
      await push({ name: "Эустома  белая" });
      expect(await product()).toMatchObject({ name: "Эустома белая", pending: false });
    });

    test("when the price cannot be saved the name is not changed either, and the push is answered 500", async () => {
      editSite((site) => Object.assign(site, { refusePrices: true }));
      expect(await put({ id: productId, name: "Иное", price: "1.00" })).toEqual({
        status: 500,
        body: { error: "not saved" },
      });
      expect(JSON.parse(readFileSync(database(), "utf8")).products[productId].NAME).toBe("Эустомы");
    });

    test("a name that the site turned into another number is noticed, not taken for the same", async () => {
      await rename("Эустома");
      editSite((site) => Object.assign(site, { rewrites: { "007": "7" } }));
      expect(await put({ id: productId, name: "007" })).toMatchObject({
        status: 409,
        body: { current: { name: "7" } },
      });
    });

    test("prices for ranges of quantities are left alone: the push is refused and says why", async () => {
      editSite(({ prices }) => {
        Object.assign(prices?.[1] ?? {}, { QUANTITY_FROM: 1, QUANTITY_TO: 9 });
        Object.assign(prices ?? {}, { 3: { ...prices?.[1], ID: 3, QUANTITY_FROM: 10, QUANTITY_TO: null } });
      });
      const before = JSON.parse(readFileSync(database(), "utf8"));
      const answer = await put({ id: productId, name: "Розы", price: "700.00" });
      expect([answer.status, answer.body.error]).toEqual([422, expect.stringContaining("price is set by ranges")]);
      expect(JSON.parse(readFileSync(database(), "utf8"))).toEqual(before);
      expect((await put({ id: productId, name: "Розы" })).status).toBe(200);
    });

    test("accepts both bearer tokens while one is being replaced", async () => {
      const config = join(root, "local/php_interface/orderbridge/config.php");
      const text = readFileSync(config, "utf8");
      writeFileSync(
        config,
        text.replace(`'siteToken' => '${siteToken}'`, `'siteToken' => ['next-token', '${siteToken}']`),
      );
      for (const [token, status] of [
        ["next-token", 200],
        [siteToken, 200],
        ["next", 401],
        ["", 401],
      ] as const) {
        expect((await put({ id: productId, name: "Розы" }, { authorization: `Bearer ${token}` })).status).toBe(status);
      }
      writeFileSync(config, text.replace(`'siteToken' => '${siteToken}'`, "'siteToken' => ['']"));
      expect((await put({ id: productId }, { authorization: "Bearer " })).status).toBe(503);
      expect(readFileSync(log(), "utf8")).toContain("not started: siteToken must be set");
    });

    test("gives a product without a price its first one", async () => {
      editSite((site) => Object.assign(site, { prices: { 9: { ID: 9, PRODUCT_ID: 1, CATALOG_GROUP_ID: 1 } } }));
      expect((await put({ id: productId, price: "700.00" })).status).toBe(200);
      const { prices } = JSON.parse(readFileSync(database(), "utf8"));
      expect(prices[10]).toMatchObject({ PRODUCT_ID: Number(productId), CATALOG_GROUP_ID: 1, PRICE: "700.0000" });
    });

    test("refuses what it cannot use, and names it", async () => {
      expect((await fetch(siteUrl + endpointPath)).status).toBe(405);
      expect((await put({ id: productId }, { authorization: "Bearer wrong" })).status).toBe(401);
      expect((await put({ id: productId }, {})).status).toBe(401);
      expect((await put({ id: 1, name: "Розы" })).status).toBe(404);
      for (const [body, field] of [
        ["{", "body"],
        [{}, "id"],
        [{ id: "1; drop" }, "id"],
        [{ id: productId, name: " " }, "name"],
        [{ id: productId, price: 5000 }, "price"],
        [{ id: productId, price: "1e3" }, "price"],
        [{ id: productId, currency: "тг" }, "currency"],
        [{ id: productId, enabled: "Y" }, "enabled"],
        [{ id: productId, base: 1 }, "base"],
      ] as const) {
        const answer = await put(body);
        expect([answer.status, String(answer.body.error).split(" ")[0]]).toEqual([422, field]);
      }
    });
  });

  describe("deals", () => {
    const due = () => storage.work.claim({ topics: [dealTopic], limit: 10, ttlMs: 60_000 });

    test("a stage and a move to another funnel arrive as the portal's own events", async () => {
      await hit(`$fields = ["STAGE_ID" => "WON"]; (new CCrmDeal(false))->Update(17, $fields);`);
      await hit(
        `(new \\Bitrix\\Main\\Event("crm", "OnAfterDealMoveToCategory", ["id" => 18, "categoryId" => 9, "stageId" => "C9:NEW"]))->send();`,
      );
      expect((await due()).map(({ key }) => key)).toEqual(["17", "18"]);
      expect(received.map(({ body }) => new URLSearchParams(body).get("event"))).toEqual([
        "ONCRMDEALUPDATE",
        "ONCRMDEALMOVETOCATEGORY",
      ]);
    });

    test("a change of other fields is not told", async () => {
      await hit(`$fields = ["COMMENTS" => "Позвонить"]; (new CCrmDeal(false))->Update(17, $fields);`);
      expect(received).toEqual([]);
    });
  });
});
