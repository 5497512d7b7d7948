import { createSocket } from "node:dgram";
import { performance } from "node:perf_hooks";
import { createFakeClock, listen } from "@orderbridge/core/testing";
import { afterEach, expect, test } from "vitest";
import { createResolver } from "../src/resolver.ts";
import { createSender } from "../src/sender.ts";

const open: { close(): unknown }[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((one) => one.close()));
});

/** Answers questions for `alive.example` with 127.0.0.1, says that `unknown.example` is not there, is silent about all else. */
async function serveNames(): Promise<{ readonly server: string; readonly asked: string[] }> {
  const socket = createSocket("udp4");
  const asked: string[] = [];
  socket.on("message", (question, { port, address }) => {
    const labels: string[] = [];
    let at = 12;
    for (let length = question[at] ?? 0; length > 0; length = question[at] ?? 0) {
      labels.push(question.toString("latin1", at + 1, at + 1 + length));
      at += length + 1;
    }
    const name = labels.join(".").toLowerCase();
    const isA = question.readUInt16BE(at + 1) === 1;
    asked.push(`${name} ${isA ? "A" : "AAAA"}`);
    const isAlive = name === "alive.example";
    if (!isAlive && name !== "unknown.example") return;
    const head = Buffer.alloc(12);
    question.copy(head, 0, 0, 2);
    head.writeUInt16BE(isAlive ? 0x8180 : 0x8183, 2);
    head.writeUInt16BE(1, 4);
    head.writeUInt16BE(isAlive && isA ? 1 : 0, 6);
    const address4 = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    const parts = [head, question.subarray(12, at + 5), ...(isAlive && isA ? [address4] : [])];
    socket.send(Buffer.concat(parts), port, address);
  });
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  open.push({ close: () => new Promise<void>((resolve) => socket.close(() => resolve())) });
  return { server: `127.0.0.1:${socket.address().port}`, asked };
}

test("receivers whose name servers are silent hold up no other", async () => {
  const { server } = await serveNames();
  const listening = await listen(async () => new Response("ok"));
  open.push(listening);
  const sender = createSender({
    allowAddresses: ["127.0.0.1"],
    timeoutMs: 1_500,
    resolve: createResolver({ servers: [server], asksSystem: true }),
  });
  open.push(sender);
  const { port } = new URL(listening.url);
  const dead = Array.from({ length: 8 }, (_, index) =>
    sender.post(`http://shop${index}.dead.example:${port}/`, {}, "{}"),
  );
  const beganAt = performance.now();
  expect((await sender.post(`http://alive.example:${port}/`, {}, "{}")).kind).toBe("answer");
  expect(performance.now() - beganAt).toBeLessThan(1_000);
  expect(await Promise.all(dead)).toEqual(Array(8).fill({ kind: "no_answer", reason: "timeout" }));
});

test("tries at one host share a look-up", async () => {
  const { server, asked } = await serveNames();
  const resolve = createResolver({ servers: [server], asksSystem: false });
  const found = await Promise.all([resolve("alive.example"), resolve("alive.example")]);
  expect(found[0]).toEqual([{ address: "127.0.0.1", family: 4 }]);
  expect(found[1]).toEqual(found[0]);
  expect(asked.sort()).toEqual(["alive.example A", "alive.example AAAA"]);
});

test("a name that is not there is an error", async () => {
  const { server } = await serveNames();
  await expect(createResolver({ servers: [server], asksSystem: false })("unknown.example")).rejects.toThrow(
    "ENOTFOUND",
  );
});

test("names of the machine itself are found", async () => {
  const { server, asked } = await serveNames();
  const resolve = createResolver({ servers: [server], asksSystem: true });
  const found = await Promise.all([resolve("localhost"), resolve("LOCALHOST")]);
  for (const addresses of found) expect(addresses.length).toBeGreaterThan(0);
  expect(asked).not.toContain("localhost A");
});

test("the system is asked for one name at a time, and nobody waits for a turn without end", async () => {
  const clock = createFakeClock();
  const asked: string[] = [];
  const answers = new Map<string, PromiseWithResolvers<{ address: string; family: number }[]>>();
  const resolve = createResolver({
    asksSystem: true,
    clock,
    askSystem(hostname) {
      asked.push(hostname);
      const answer = Promise.withResolvers<{ address: string; family: number }[]>();
      answers.set(hostname, answer);
      return answer.promise;
    },
  });
  const address = { address: "127.0.0.1", family: 4 };
  const [first, second, third] = ["one", "two", "three"].map(resolve);
  await settled();
  expect(asked).toEqual(["one"]);
  answers.get("one")?.reject(new Error("there is no such name")); // holds up nobody
  await expect(first).rejects.toThrow("there is no such name");
  await settled();
  expect(asked).toEqual(["one", "two"]);
  clock.advance(10_001);
  answers.get("two")?.resolve([address]);
  expect(await second).toEqual([address]);
  await expect(third).rejects.toThrow("too many names are looked up in the system");
  expect(asked).toEqual(["one", "two"]);
  const fourth = resolve("four");
  await settled();
  expect(asked).toEqual(["one", "two", "four"]);
  answers.get("four")?.resolve([address]);
  expect(await fourth).toEqual([address]);
});

test("name servers are read anew when they do not answer, but not for each name that has none", async () => {
  const clock = createFakeClock();
  /** What each one answers, in the order in which they are made. */
  const answers: (string | Error)[] = [refusal("ETIMEOUT"), refusal("ESERVFAIL"), "192.0.2.7"];
  let made = 0;
  const resolve = createResolver({
    asksSystem: false,
    clock,
    createNameResolver() {
      const answer = answers[made++];
      return {
        async resolve4() {
          if (typeof answer === "string") return [answer];
          throw answer;
        },
        resolve6: () => Promise.reject(refusal("ENODATA")),
      };
    },
  });
  await expect(resolve("shop.example")).rejects.toThrow("ETIMEOUT"); // made a moment ago
  expect(made).toBe(1);
  clock.advance(5_000);
  await expect(resolve("shop.example")).rejects.toThrow("ETIMEOUT");
  await expect(resolve("shop.example")).rejects.toThrow("ESERVFAIL");
  expect(made).toBe(2);
  clock.advance(5_000);
  await expect(resolve("shop.example")).rejects.toThrow("ESERVFAIL");
  expect(await resolve("shop.example")).toEqual([{ address: "192.0.2.7", family: 4 }]);
  clock.advance(5_000);
  expect(await resolve("shop.example")).toEqual([{ address: "192.0.2.7", family: 4 }]); // ENODATA is an answer
  expect(made).toBe(3);
});

const refusal = (code: string): Error => Object.assign(new Error(code), { code });

/** Everything that needs no answer has happened. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));
