import { spawn } from "node:child_process";
import { join } from "node:path";
import { systemClock } from "@orderbridge/core";
import { createKyselyStorage } from "@orderbridge/core/kysely";
import { listen } from "@orderbridge/core/testing";
import { describe, expect, onTestFinished, test } from "vitest";
import { sharedTestDatabases } from "../../core/test/programs.ts";
import { createAmocrmConnection } from "../src/amocrm/index.ts";
import { createFakeAmocrm, fakeAccount, fakeIntegration } from "../src/testing/index.ts";

function startWorker(...args: readonly string[]) {
  const child = spawn(process.execPath, [
    "--disable-warning=ExperimentalWarning",
    join(import.meta.dirname, "refresh.worker.ts"),
    ...args,
  ]);
  onTestFinished(() => void child.kill("SIGKILL"));
  let output = "";
  let errors = "";
  child.stderr.on("data", (chunk: Buffer) => {
    errors += chunk;
  });
  const ready = new Promise<void>((resolve) =>
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk;
      if (output.startsWith("ready")) resolve();
    }),
  );
  const ended = new Promise<{ code: number | null; output: string; errors: string }>((resolve) =>
    child.once("close", (code) => resolve({ code, output, errors })),
  );
  return { ready, ended, go: () => child.stdin.write("go\n") };
}

for (const { name, skipped, open } of sharedTestDatabases()) {
  describe.skipIf(skipped)(name, () => {
    test("an expired token with five calls in each of four processes is refreshed once, and every call gets its answer", {
      timeout: 60_000,
    }, async () => {
      const database = await open();
      onTestFinished(database.close);
      const storage = createKyselyStorage(database);
      await storage.migrate();
      const fake = createFakeAmocrm({ clock: systemClock, accessTokens: [], ratePerSecond: 50 });
      const server = await listen(fake.handle);
      onTestFinished(server.close);
      const { host } = fakeAccount;
      const connection = createAmocrmConnection({ ...fakeIntegration, host, storage, origin: server.url });
      await connection.importPair(fake.oauth.issuePair());
      fake.oauth.expireAccessTokens();

      const workers = Array.from({ length: 4 }, () => startWorker(database.url, server.url));
      await Promise.all(workers.map(({ ready }) => ready));
      for (const worker of workers) worker.go();
      for (const { code, output, errors } of await Promise.all(workers.map(({ ended }) => ended))) {
        expect(errors).toBe("");
        expect([code, output]).toEqual([0, `ready\n${Array(5).fill("demo").join(" ")}\n`]);
      }
      expect(fake.journal.count("POST /oauth2/access_token")).toBe(1);
      expect(await connection.tokens.current()).toMatchObject({ version: 2, state: "active" });
    });
  });
}
