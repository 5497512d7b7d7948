import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { toNodeListener } from "@orderbridge/core/node";
import { afterAll, beforeAll, expect, test } from "vitest";
import { findProgram } from "../../../scripts/services.ts";
import { createTlsFetch } from "../src/providers/tls-fetch.ts";
import { createFakeKaspiQr } from "../src/testing/index.ts";
import { openQr, pressButton } from "./provider-worlds.ts";

const isMissing = findProgram("openssl") === undefined && process.env.REQUIRE_SERVICES !== "1";
let folder: string;
let server: Server;
let origin: string;
const file = (name: string): Buffer => readFileSync(join(folder, name));

beforeAll(async () => {
  if (isMissing) return;
  folder = mkdtempSync(join(tmpdir(), "orderbridge-tls-"));
  const openssl = (...args: readonly string[]) => execFileSync("openssl", args, { cwd: folder, stdio: "ignore" });
  const subject = (name: string) => ["-subj", `/CN=${name}`, "-days", "2", "-nodes"];
  for (const name of ["server", "client"]) {
    openssl(
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
      ...["-keyout", `${name}.key`, "-out", `${name}.pem`, "-addext", "subjectAltName=IP:127.0.0.1"],
      ...subject(name),
    );
  }
  const pack = ["pkcs12", "-export", "-inkey", "client.key", "-in", "client.pem", "-out", "client.pfx"];
  openssl(...pack, "-passout", "pass:пароль 1");
  const fake = createFakeKaspiQr({ scheme: "r2" });
  const listener = toNodeListener(fake.handle);
  server = createServer(
    {
      key: file("server.key"),
      cert: file("server.pem"),
      ca: file("client.pem"),
      requestCert: true,
      rejectUnauthorized: false,
    },
    (request, response) => {
      if ((request.socket as TLSSocket).authorized) return listener(request, response);
      response
        .writeHead(200, { "content-type": "application/json" })
        .end('{"StatusCode":-10000,"Message":"","Data":null}');
    },
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  origin = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => {
  if (isMissing) return;
  server.close();
  server.closeAllConnections();
  rmSync(folder, { recursive: true, force: true });
});

const ping = async (send: typeof fetch): Promise<unknown> => {
  const answer = await send(`${origin}/r2/v01/health/ping`, { headers: { "x-request-id": crypto.randomUUID() } });
  return ((await answer.json()) as { StatusCode: number }).StatusCode;
};

test.skipIf(isMissing)(
  "shows the client certificate from PEM files and from PKCS #12; without one the bank says -10000",
  async () => {
    const ca = file("server.pem");
    expect(await ping(createTlsFetch({ ca, cert: file("client.pem"), key: file("client.key") }))).toBe(0);
    expect(await ping(createTlsFetch({ ca, pfx: file("client.pfx"), passphrase: "пароль 1" }))).toBe(0);
    expect(await ping(createTlsFetch({ ca }))).toBe(-10_000);
  },
);

test.skipIf(isMissing)("refuses a server whose certificate nobody vouches for, unless told not to care", async () => {
  await expect(ping(createTlsFetch({}))).rejects.toThrow();
  expect(await ping(createTlsFetch({ insecure: true }))).toBe(-10_000);
});

test.skipIf(isMissing)("carries the calls of the QR provider", async () => {
  const send = createTlsFetch({ ca: file("server.pem"), cert: file("client.pem"), key: file("client.key") });
  const { world, provider } = await openQr({ scheme: "r2", options: { origin, fetch: send } });
  try {
    const { payment } = await world.gateway.payments.create({ merchant: "shop", amountMinor: 50_000n });
    await pressButton(world, "kaspi-qr", payment.id, { action: "pay" });
    const begun = await world.gateway.payments.get("shop", payment.id);
    expect(begun && provider.payerStep(begun)).toMatchObject({ kind: "link" });
  } finally {
    await world.close();
  }
});

test("a certificate without its key is refused at creation", () => {
  expect(() => createTlsFetch({ cert: "-----BEGIN CERTIFICATE-----" })).toThrow("cert and key");
});
