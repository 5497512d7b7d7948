import type { FakeClock } from "@orderbridge/core/testing";
import type { TestDatabase } from "../../core/test/databases.ts";
import { reusedDatabases } from "../../core/test/reused-databases.ts";
import { createPaymentGatewayStorage } from "../src/kysely/index.ts";
import { createPaymentGatewayMemoryStorage } from "../src/memory/index.ts";
import type { GatewayStorage } from "../src/storage.ts";

/** A storage for suites that run on all of them. */
export interface Store {
  readonly name: string;
  readonly skipped: boolean;
  open(): Promise<{ storageFor(clock: FakeClock): Promise<GatewayStorage>; close(): Promise<void> }>;
}

export const stores: readonly Store[] = [
  {
    name: "memory",
    skipped: false,
    open: async () => ({
      storageFor: async (clock) => createPaymentGatewayMemoryStorage({ clock }),
      close: async () => undefined,
    }),
  },
  ...reusedDatabases().map(
    ({ name, skipped, open }): Store => ({
      name,
      skipped,
      async open() {
        const database: TestDatabase = await open();
        return {
          async storageFor(clock) {
            const storage = createPaymentGatewayStorage({ ...database, clock });
            await storage.migrate();
            return storage;
          },
          close: () => database.close(),
        };
      },
    }),
  ),
];
