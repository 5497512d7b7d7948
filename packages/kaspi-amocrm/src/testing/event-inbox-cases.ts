import { deepEqual, equal } from "node:assert/strict";
import type { ConformanceCase } from "@orderbridge/core/testing";
import type { AmocrmEvent } from "../amocrm/events.ts";
import type { KaspiAmocrmStorage } from "../ledger.ts";

const lead = (id: string | undefined): AmocrmEvent => ({ entity: "leads", id });
const named = (events: readonly AmocrmEvent[]): readonly string[] =>
  events.map(({ entity, id }) => `${entity} ${id ?? "more"}`);
const limit = 100;

/** What every inbox of webhook events must keep to. */
export const eventInboxCases: readonly ConformanceCase<Pick<KaspiAmocrmStorage, "events">>[] = [
  {
    name: "an entity waits once, however often and together with whatever it is told of",
    async run({ events }) {
      await events.add([lead("1"), lead("2"), lead("1"), { entity: "contacts", id: "1" }], { limit });
      await events.add([lead("2")], { limit });
      await events.add([], { limit });
      deepEqual([...named(await events.waiting())].sort(), ["contacts 1", "leads 1", "leads 2"]);
      equal((await events.waiting({ limit: 2 })).length, 2);
    },
  },
  {
    name: "what was told of again during the look stays, what was not is gone",
    async run({ events }) {
      await events.add([lead("1"), lead("2")], { limit });
      const looked = await events.waiting();
      await events.add([lead("2"), lead("3")], { limit });
      await events.remove(looked);
      deepEqual([...named(await events.waiting())].sort(), ["leads 2", "leads 3"]);
      await events.remove(await events.waiting());
      await events.add([lead("1")], { limit });
      await events.remove(looked); // a look that ends late ends nothing that came after it
      deepEqual(named(await events.waiting()), ["leads 1"]);
      await events.remove([]);
    },
  },
  {
    name: "beyond the limit one row for each kind stands for the further ones; what waits may be told of again",
    async run({ events }) {
      const told = Array.from({ length: 8 }, (_, index) => lead(String(index)));
      await events.add(told.slice(0, 4), { limit: 5 });
      await events.add([...told, { entity: "contacts", id: "9" }], { limit: 5 });
      const waiting = await events.waiting();
      equal(waiting.filter(({ id }) => id !== undefined).length, 5);
      equal(named(waiting).includes("leads more"), true);
      equal(waiting.length <= 7, true);
      await events.add(told, { limit: 5 });
      await events.remove(waiting);
      // All were told of again, the one row for the further ones too.
      equal((await events.waiting()).filter(({ entity }) => entity === "leads").length >= 5, true);
      equal(named(await events.waiting()).includes("leads more"), true);
    },
  },
  {
    name: "many writers at once lose nothing and double nothing",
    async run({ events }) {
      const writes = Array.from({ length: 12 }, (_, writer) =>
        events.add(
          Array.from({ length: 40 }, (_, index) => lead(String((index * (writer % 2 === 0 ? 1 : 39)) % 40))),
          { limit },
        ),
      );
      await Promise.all(writes);
      deepEqual(
        [...named(await events.waiting())].sort(),
        Array.from({ length: 40 }, (_, index) => `leads ${index}`).sort(),
      );
    },
  },
];
