import { getEventListeners } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { ConfigError, silentLogger, systemClock } from "@orderbridge/core";
import { openDatabase } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { sql } from "kysely";
import { expect, test } from "vitest";
import { testDatabases } from "../../core/test/databases.ts";
import { createPaymentGateway } from "../src/index.ts";
import { createPaymentGatewayStorage, createPostgresHints } from "../src/kysely/index.ts";
import { createSandboxProvider } from "../src/providers/sandbox.ts";
import { createFakeReceiver } from "../src/testing/index.ts";

const [postgres] = testDatabases().filter(({ name }) => name.startsWith("PostgreSQL"));

test.skipIf(postgres?.skipped)(
  "PostgreSQL tells a process that looks once an hour what another one has stored, also after its connection was cut",
  async () => {
    const database = await (postgres as NonNullable<typeof postgres>).open();
    const receiver = createFakeReceiver({ secrets: ["test_secret_key"] });
    const listening = await listen(receiver.handle);
    const name = `hints_${process.pid}`;
    const url = new URL(database.url);
    url.searchParams.set("application_name", name);
    const open = () =>
      createPaymentGateway({
        storage: createPaymentGatewayStorage({ ...database, hints: createPostgresHints(url.href) }),
        providers: [createSandboxProvider()],
        publicUrl: "https://pay.example",
        webhooks: { allowAddresses: ["127.0.0.1"] },
        pollIntervalMs: 3_600_000,
        logger: silentLogger,
      });
    await createPaymentGatewayStorage(database).migrate();
    const [sending, storing] = [open(), open()];
    const stopping = new AbortController();
    const running = sending.run(stopping.signal);
    const listeners = async () => {
      const { rows } = await sql<{
        pid: number;
      }>`select pid from pg_stat_activity where application_name = ${name} and query = 'listen orderbridge_gateway'`.execute(
        database.db,
      );
      return rows.map(({ pid }) => pid);
    };
    try {
      await expect.poll(async () => (await listeners()).length, { timeout: 10_000 }).toBe(1);
      const cancelOne = async () => {
        const { payment } = await storing.payments.create({
          merchant: "shop",
          amountMinor: 100n,
          webhookUrl: listening.url,
          webhookSecret: "test_secret_key",
        });
        await storing.payments.cancel("shop", payment.id);
      };
      await cancelOne();
      await expect.poll(() => receiver.accepted.length, { timeout: 5_000 }).toBe(1);
      for (const pid of await listeners()) await sql`select pg_terminate_backend(${pid})`.execute(database.db);
      await cancelOne(); // nobody listens now: it is found when the connection is back
      await expect.poll(() => receiver.accepted.length, { timeout: 15_000 }).toBe(2);
    } finally {
      stopping.abort();
      await running;
      await Promise.all([sending.close(), storing.close(), listening.close()]);
      await database.close();
    }
  },
);

test("hints are for PostgreSQL: another database refuses them at creation", async () => {
  expect(() => createPostgresHints("mysql://localhost/payments")).toThrow(ConfigError);
  const database = await openDatabase("sqlite::memory:");
  const hints = createPostgresHints("postgres://localhost/payments");
  expect(() => createPaymentGatewayStorage({ ...database, hints })).toThrow("only PostgreSQL");
  await database.close();
});

test.skipIf(postgres?.skipped)("stops although its connection was dropped without a word", async () => {
  const database = await (postgres as NonNullable<typeof postgres>).open();
  const url = new URL(database.url);
  const sockets: Socket[] = [];
  let isSilent = false;
  const server = createServer({ allowHalfOpen: true }, (near) => {
    const far = connect(Number(url.port || 5432), url.hostname);
    sockets.push(near, far);
    for (const socket of [near, far]) socket.on("error", () => undefined);
    near.on("data", (bytes) => isSilent || far.write(bytes));
    far.on("data", (bytes) => isSilent || near.write(bytes));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const through = new URL(url);
  through.hostname = "127.0.0.1";
  through.port = String(typeof address === "object" ? address?.port : 0);
  try {
    const listening = Promise.withResolvers<void>();
    const stop = createPostgresHints(through.href).listen(listening.resolve);
    await listening.promise;
    isSilent = true;
    let isStopped = false;
    const stopped = Promise.resolve(stop()).then(() => {
      isStopped = true;
    });
    await expect.poll(() => isStopped, { timeout: 3_000 }).toBe(true);
    await stopped;
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
    await database.close();
  }
});

const portOf = (server: Server): number => {
  const address = server.address();
  return typeof address === "object" ? (address?.port ?? 0) : 0;
};

test.each([
  { when: "before it greets", says: [] },
  {
    when: "between its greeting and the answer to listen",
    says: [0x52, 0, 0, 0, 8, 0, 0, 0, 0, 0x5a, 0, 0, 0, 5, 0x49],
  },
])("stops at once although the server falls silent $when", async ({ says }) => {
  const spoken = Promise.withResolvers<void>();
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    socket.once("data", () => {
      socket.write(Buffer.from(says), () => spoken.resolve());
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const stop = createPostgresHints(`postgres://x@127.0.0.1:${portOf(server)}/x`).listen(() => undefined);
    await spoken.promise;
    let isStopped = false;
    const stopped = stop().then(() => {
      isStopped = true;
    });
    await expect.poll(() => isStopped, { timeout: 3_000 }).toBe(true);
    await stopped;
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
});

test("connections that fail leave nothing behind", async () => {
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const kept: number[] = [];
  const clock = {
    ...systemClock,
    // Between two connections: nobody waits for the end of the former one any more.
    async sleep(_ms: number, signal?: AbortSignal) {
      if (signal) kept.push(getEventListeners(signal, "abort").length);
    },
  };
  const warned: string[] = [];
  const logger = { ...silentLogger, warn: (message: string) => void warned.push(message) };
  const stop = createPostgresHints(`postgres://x@127.0.0.1:${portOf(server)}/x`, { clock, logger }).listen(
    () => undefined,
  );
  try {
    await expect.poll(() => warned.length, { timeout: 10_000 }).toBeGreaterThan(20);
    expect(new Set(kept)).toEqual(new Set([0]));
  } finally {
    await stop();
    server.close();
  }
});
