import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { type Listening, listen } from "@orderbridge/core/testing";
import { createFakeRobokassa, type FakeRobokassa } from "@orderbridge/robokassa/testing";
import { sql } from "kysely";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type TestDatabase, testDatabases } from "../../../packages/core/test/databases.ts";

const shop = { login: "demo-shop", password1: "live-password-1", password2: "live-password-2" };

const postgres = testDatabases().find(({ name }) => name.startsWith("PostgreSQL"));

let database: TestDatabase;
let fake: FakeRobokassa;
let fakeServer: Listening;
let children: ChildProcess[];

async function stop(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill(signal);
  await ended;
}

/** Starts an example's server on the test's database, and points the fake's cabinet at it. */
async function startShop(example: string): Promise<{ url: string; child: ChildProcess }> {
  const child = spawn(process.execPath, ["server.ts"], {
    cwd: join(import.meta.dirname, "../..", example),
    env: {
      PATH: process.env.PATH,
      PORT: "0",
      DATABASE_URL: database.url,
      ROBOKASSA_LOGIN: shop.login,
      ROBOKASSA_PASSWORD1: shop.password1,
      ROBOKASSA_PASSWORD2: shop.password2,
      ROBOKASSA_API_URL: fakeServer.url,
    },
    stdio: ["ignore", "pipe", "ignore"],
  });
  children.push(child);
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout?.on("data", (chunk) => {
      const found = /listening on (\S+)/.exec(String(chunk))?.[1];
      if (found) resolve(found);
    });
    child.once("exit", (code) => reject(new Error(`${example} ended with ${code}`)));
  });
  fake.configure({ resultUrl: `${url}/robokassa/result` });
  return { url, child };
}

/** Counts each time the order's row becomes paid, in the database itself. */
const countBookings = async (): Promise<void> => {
  const statements = [
    "create table bookings (inv_id text)",
    `create function count_booking() returns trigger language plpgsql as $$
     begin insert into bookings values (new.inv_id); return new; end $$`,
    `create trigger count_booking after update on robokassa_orders for each row
     when (old.status <> 'paid' and new.status = 'paid') execute function count_booking()`,
  ];
  for (const statement of statements) await sql.raw(statement).execute(database.db);
};

const bookings = async (): Promise<number> => (await database.db.selectFrom("bookings").selectAll().execute()).length;

const orderStatus = async (): Promise<unknown> =>
  (await database.db.selectFrom("robokassa_orders").select("status").executeTakeFirst())?.status;

/** Waits until a statement of the shop is stopped by the lock that the test holds on a table. */
async function shopWaits(table: string): Promise<void> {
  for (;;) {
    const waiting = sql`select 1 from pg_locks where not granted and relation = ${table}::regclass`;
    if ((await waiting.execute(database.db)).rows.length > 0) return;
  }
}

async function placeOrder(url: string): Promise<Record<"id" | "paymentUrl", string>> {
  const placed = await fetch(`${url}/orders`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ total: "1000.00", description: "Қалам" }),
  });
  return (await placed.json()) as Record<"id" | "paymentUrl", string>;
}

async function getStatus(url: string, id: string): Promise<unknown> {
  return ((await (await fetch(`${url}/orders/${id}`)).json()) as Record<string, unknown>).status;
}

describe.skipIf(postgres?.skipped ?? true)("a shop that is killed between a notification and its answer", () => {
  beforeEach(async () => {
    database = await (postgres as NonNullable<typeof postgres>).open();
    fake = createFakeRobokassa({ ...shop, retryDelaysMs: [] });
    fakeServer = await listen(fake.handle);
    children = [];
  });
  afterEach(async () => {
    fake.close();
    await Promise.all(children.map((child) => stop(child, "SIGKILL")));
    await fakeServer.close();
    await database.close();
  });

  test.each([
    ["robokassa-express", "before the booking is committed", "robokassa_orders", "new"],
    ["robokassa-express", "after the booking is committed", "robokassa_callbacks", "paid"],
    ["robokassa-nextjs", "before the booking is committed", "robokassa_orders", "new"],
    ["robokassa-nextjs", "after the booking is committed", "robokassa_callbacks", "paid"],
  ] as const)("%s, %s: the repeat is answered OK, and the order is paid once", async (example, _when, table, left) => {
    const { url, child } = await startShop(example);
    const { id, paymentUrl } = await placeOrder(url);
    await countBookings();

    // The shop's write to this table waits for the test: that is where the process dies.
    let paying: ReturnType<FakeRobokassa["pay"]> | undefined;
    await database.db.transaction().execute(async (trx) => {
      await sql.raw(`lock table ${table} in share mode`).execute(trx);
      paying = fake.pay({ url: paymentUrl });
      await shopWaits(table);
      await stop(child, "SIGKILL");
    });
    expect((await paying)?.delivery).toMatchObject({ status: undefined, answer: "", accepted: false });
    expect(await orderStatus()).toBe(left);

    const second = await startShop(example);
    expect(await fake.redeliver("1")).toMatchObject({ status: 200, answer: "OK1", accepted: true });
    expect(await fake.redeliver("1")).toMatchObject({ answer: "OK1" });
    expect([await getStatus(second.url, id), await bookings()]).toEqual(["paid", 1]);
  });

  test.each(["robokassa-express", "robokassa-nextjs"])("%s finds a payment that nobody told it of", async (example) => {
    const first = await startShop(example);
    const { id, paymentUrl } = await placeOrder(first.url);
    await stop(first.child, "SIGKILL");
    expect((await fake.pay({ url: paymentUrl })).delivery?.status).toBeUndefined();
    await database.db.updateTable("robokassa_orders").set({ check_at: 0 }).execute(); // a minute has passed

    const { url } = await startShop(example);
    await expect.poll(() => getStatus(url, id), { timeout: 10_000 }).toBe("paid");
  });
});
