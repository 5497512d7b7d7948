import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { recordProof } from "../../../test/proof-report.ts";
import { NeedsReauthError, type StoredToken } from "../src/index.ts";
import { createKyselyStorage, type KyselyStorage } from "../src/kysely/index.ts";
import type { TestDatabase } from "./databases.ts";
import { advanceOnce, replaceToken } from "./kill-points.ts";
import { sharedTestDatabases, startProgram } from "./programs.ts";

const isProof = process.env.PROOF === "1";
const firstPair = { accessToken: "access-1", refreshToken: "refresh-1" };

/** A vendor that outlives its callers. Each key has one valid refresh token, which works once. */
const issued = new Map<string, number>();
const vendor: Server = createServer(async (request, response) => {
  const key = decodeURIComponent(request.url?.slice(1) ?? "");
  let refreshToken = "";
  for await (const chunk of request) refreshToken += chunk;
  const serial = issued.get(key) ?? 1;
  if (refreshToken !== `refresh-${serial}`) return void response.writeHead(400).end();
  issued.set(key, serial + 1);
  response.end(JSON.stringify({ accessToken: `access-${serial + 1}`, refreshToken: `refresh-${serial + 1}` }));
});
let vendorUrl = "";
beforeAll(async () => {
  await new Promise<void>((resolve) => vendor.listen(0, "127.0.0.1", resolve));
  vendorUrl = `http://127.0.0.1:${(vendor.address() as AddressInfo).port}`;
});
afterAll(() => {
  vendor.closeAllConnections();
  vendor.close();
});

for (const [place, { name, skipped, open }] of sharedTestDatabases().entries()) {
  describe.skipIf(skipped)(`a process that is killed on ${name}`, { timeout: 240_000 }, () => {
    let database: TestDatabase;
    let storage: KyselyStorage;
    beforeAll(async () => {
      issued.clear();
      database = await open();
      storage = createKyselyStorage(database);
      await storage.migrate();
    });
    afterAll(() => database?.close());

    /** Every moment on every database with `pnpm proof`; else every one on one of the three. */
    const chosen = (moments: readonly string[]) => moments.filter((_, index) => isProof || index % 3 === place);

    async function killAt(command: "advance" | "refresh", key: string, moment: string): Promise<void> {
      const { ended, lines } = startProgram("killed.worker.ts", command, database.url, key, moment, vendorUrl);
      expect([await ended, lines]).toEqual(["SIGKILL", []]);
    }

    test.each([
      ["first", undefined],
      ["later", "41"],
    ])("before or after a statement of a %s move leaves the position before or behind it", async (_case, position) => {
      const begin = async (key: string) => {
        if (position !== undefined) await storage.watermarks.advance(key, undefined, position);
      };
      const next = String(Number(position ?? 0) + 1);
      const moments: string[] = [];
      await begin(`seen ${position}`);
      await advanceOnce({ ...database, key: `seen ${position}`, onMoment: (moment) => moments.push(moment) });
      expect(moments).toEqual(["before 1", "after 1", "before 2", "after 2"]);

      for (const moment of chosen(moments)) {
        const key = `${position} ${moment}`;
        await begin(key);
        await killAt("advance", key, moment);
        const left = await storage.watermarks.get(key);
        expect([moment, left]).toEqual([moment, moment === "after 2" ? next : position]);
        expect(await storage.watermarks.advance(key, left, "goes on")).toBe(true);
      }
    });

    test("before or after a statement of a token refresh leaves one whole pair, and a lost one is told", async () => {
      const moments: string[] = [];
      await storage.tokens.save("seen", firstPair, undefined);
      const seen = { ...database, key: "seen", onMoment: (moment: string) => moments.push(moment) };
      expect(await replaceToken(seen, { vendorUrl })).toMatchObject({ accessToken: "access-2", version: 2 });

      const outcomes = new Map<string, string>();
      const proveMoment = async (moment: string) => {
        const key = `account ${moment}`;
        const first = (await storage.tokens.save(key, firstPair, undefined)) as StoredToken;
        await killAt("refresh", key, moment);
        const left = await storage.tokens.get(key);
        const wasGiven = issued.has(key);
        const isStored = left?.version === 2;
        outcomes.set(moment, !wasGiven ? "not asked" : isStored ? "stored" : "lost");
        expect(left).toMatchObject(
          isStored
            ? { accessToken: "access-2", refreshToken: "refresh-2", state: "active" }
            : { ...firstPair, version: 1, state: "active" },
        );

        let alerts = 0;
        const next = replaceToken(
          { ...database, key, onMoment: () => undefined },
          { vendorUrl, refused: first, onNeedsReauth: () => void alerts++ },
        );
        if (outcomes.get(moment) === "lost") {
          await expect(next).rejects.toThrow(NeedsReauthError);
          expect([alerts, (await storage.tokens.get(key))?.state]).toEqual([1, "needs_reauth"]);
        } else {
          expect(await next).toMatchObject({ accessToken: "access-2", version: 2, state: "active" });
          expect([alerts, issued.get(key)]).toEqual([0, 2]);
        }
      };
      const waiting = [...chosen(moments)];
      const prove = async () => {
        for (let moment = waiting.shift(); moment !== undefined; moment = waiting.shift()) await proveMoment(moment);
      };
      await Promise.all([prove(), prove(), prove(), prove()]); // a lease of a killed process lasts two seconds

      // 1 read, 2 read, 3 and 4 lease, 5 read, then the vendor, 6 save, 7 release
      expect(moments).toHaveLength(14);
      const expected = moments.map((moment, index) => [
        moment,
        index < 10 ? "not asked" : index > 10 ? "stored" : "lost",
      ]);
      expect(outcomes).toEqual(
        new Map(expected.filter(([moment]) => outcomes.has(moment as string)) as [string, string][]),
      );
      expect(outcomes.size).toBe(chosen(moments).length);
      recordProof(`core-killed-${name.toLowerCase()}`, { moments: outcomes.size + 8, torn: 0 });
    });
  });
}
