import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createKyselyStorage } from "@orderbridge/core/kysely";
import { describe, expect, onTestFinished, test } from "vitest";
import { sharedTestDatabases } from "../../core/test/programs.ts";
import { handleAmocrmEvents } from "../src/amocrm/index.ts";
import { createKaspiAmocrmStorage } from "../src/kysely/index.ts";

const secret = "unguessable-path";

function startWorker(databaseUrl: string) {
  const child = spawn(process.execPath, [
    "--disable-warning=ExperimentalWarning",
    join(import.meta.dirname, "webhook.worker.ts"),
    databaseUrl,
    secret,
  ]);
  onTestFinished(() => void child.kill("SIGKILL"));
  const ended = once(child, "close");
  const url = new Promise<string>((resolve, reject) => {
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk;
      if (output.endsWith("\n")) resolve(output.trim());
    });
    child.stderr.on("data", (chunk: Buffer) => reject(new Error(String(chunk))));
  });
  return {
    url,
    async kill() {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

for (const { name, skipped, open } of sharedTestDatabases()) {
  describe.skipIf(skipped)(name, () => {
    test("a process killed in the middle of a flood forgets nothing that it answered", {
      timeout: 60_000,
    }, async () => {
      const database = await open();
      onTestFinished(database.close);
      const worker = startWorker(database.url);
      const url = await worker.url;
      const answered = new Set<string>();
      const { promise: enough, resolve: hasEnough } = Promise.withResolvers<void>();
      const send = async (id: string) => {
        const body = new URLSearchParams({ "leads[update][0][id]": id, "account[id]": "31000001" });
        const { status } = await fetch(`${url}/amocrm/webhook/${secret}`, { method: "POST", body });
        if (status === 200) answered.add(id);
        if (answered.size >= 60) hasEnough();
      };
      const flood = Promise.allSettled(Array.from({ length: 400 }, (_, index) => send(String(1_000 + (index >> 1)))));
      await Promise.race([enough, flood]);
      await worker.kill();
      await flood; // what had no answer is amoCRM's to send again

      const { events } = createKaspiAmocrmStorage(database);
      const waiting = (await events.waiting()).map(({ id }) => id);
      expect(new Set(waiting).size).toBe(waiting.length);
      expect(answered.size).toBeGreaterThan(0);
      expect([...answered].filter((id) => !waiting.includes(id))).toEqual([]);

      const handled: (string | undefined)[] = [];
      const { leases } = createKyselyStorage(database);
      await handleAmocrmEvents({
        events,
        leases,
        onEvents: async (told) => {
          handled.push(...told.map(({ id }) => id));
          return true;
        },
      });
      expect([handled.sort(), await events.waiting()]).toEqual([waiting.sort(), []]);
    });
  });
}
