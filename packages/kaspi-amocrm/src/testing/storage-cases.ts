import { deepEqual, equal } from "node:assert/strict";
import type { ConformanceCase } from "@orderbridge/core/testing";
import type { KaspiAmocrmStorage, LedgerRow, ObservedOrder } from "../ledger.ts";
import { eventInboxCases } from "./event-inbox-cases.ts";

const at = (minutes: number): Date => new Date(Date.UTC(2026, 10, 1) + minutes * 60_000);
const order = (code: string, more: Partial<ObservedOrder> = {}): ObservedOrder => ({
  code,
  orderedAt: at(0),
  state: "NEW",
  status: "APPROVED_BY_BANK",
  isFinal: false,
  ...more,
});
const codes = (rows: readonly LedgerRow[]): string[] => rows.map(({ code }) => code);
const key = (code: string, shop = "default") => ({ shop, code });

/** What every storage of the sync must keep to. */
export const kaspiAmocrmStorageCases: readonly ConformanceCase<KaspiAmocrmStorage>[] = [
  {
    name: "an observed order becomes a row once; later only state, status and finality move",
    async run({ orders }) {
      const [first] = await orders.observe("default", [order("1")], at(1));
      deepEqual([first?.phase, first?.dueAt, first?.attempts, first?.leadId], ["seen", at(1), 0, undefined]);
      await orders.claim([key("1")], 1);
      equal(
        await orders.save(
          [{ ...key("1"), phase: "done", leadId: "9", lines: [{ elementId: "5", quantity: "3.8" }] }],
          1,
        ),
        true,
      );
      const final = order("1", { state: "ARCHIVE", status: "COMPLETED", isFinal: true, orderedAt: at(7) });
      await orders.observe("default", [final], at(2));
      await orders.observe("default", [final], at(3));
      const row = await orders.get(key("1"));
      deepEqual(
        [row?.phase, row?.status, row?.finalSince, row?.orderedAt, row?.lines],
        ["done", "COMPLETED", at(2), at(0), [{ elementId: "5", quantity: "3.8" }]],
      );
      await orders.observe("default", [order("1", { status: "KASPI_DELIVERY_RETURN_REQUESTED" })], at(4));
      equal((await orders.get(key("1")))?.finalSince, undefined);
    },
  },
  {
    name: "an order that must be known moves on when it is there, and is not inserted when it is not",
    async run({ orders }) {
      await orders.observe("default", [order("1")], at(1));
      const moved = { status: "COMPLETED", isFinal: true, mustBeKnown: true };
      const rows = await orders.observe("default", [order("1", moved), order("2", moved)], at(2));
      deepEqual(
        rows.map(({ code, status, finalSince }) => [code, status, finalSince]),
        [["1", "COMPLETED", at(2)]],
      );
      equal(await orders.get(key("2")), undefined);
    },
  },
  {
    name: "keys are compared byte for byte, and shops are apart",
    async run({ orders }) {
      const all = ["a", "A", "е", "ё", "a "];
      equal(
        (
          await orders.observe(
            "default",
            all.map((code) => order(code)),
            at(1),
          )
        ).length,
        5,
      );
      equal((await orders.observe("second", [order("a")], at(1))).length, 1);
      deepEqual((await orders.counts()).seen, 6);
      equal((await orders.get(key("a", "third"))) === undefined, true);
    },
  },
  {
    name: "a newer holder takes rows; the older one can neither take nor save them, not even in part",
    async run({ orders }) {
      await orders.observe("default", [order("1"), order("2")], at(1));
      deepEqual(codes(await orders.claim([key("1"), key("2")], 1)).sort(), ["1", "2"]);
      deepEqual(codes(await orders.claim([key("2")], 2)), ["2"]);
      deepEqual(codes(await orders.claim([key("1"), key("2")], 1)), ["1"]);
      equal(
        await orders.save(
          [
            { ...key("1"), leadId: "9" },
            { ...key("2"), leadId: "8" },
          ],
          1,
        ),
        false,
      );
      equal((await orders.get(key("1")))?.leadId, undefined);
      equal(await orders.save([{ ...key("2"), leadId: "7" }], 2), true);
      equal((await orders.get(key("2")))?.leadId, "7");
      equal(await orders.save([{ ...key("missing"), leadId: "7" }], 2), false);
    },
  },
  {
    name: "a save of many orders gives each its own values, whatever the fields that others change",
    async run({ orders }) {
      const all = Array.from({ length: 230 }, (_, index) => String(index));
      await orders.observe(
        "default",
        all.map((code) => order(code)),
        at(1),
      );
      const changes = all.map((code, index) => ({
        ...key(code),
        intentAt: at(5),
        priceMinor: index === 7 ? undefined : 1000 + index,
        leadId: index === 8 ? undefined : `lead-${code}`,
        ...(index % 2 === 1 && { lines: [{ elementId: code, quantity: "1" }], finalSince: at(index) }),
      }));
      equal(await orders.save(changes, 1), true);
      for (const { code, ...change } of changes) {
        const row = (await orders.get(key(code))) as LedgerRow;
        deepEqual(
          [row.intentAt, row.priceMinor, row.leadId, row.lines, row.finalSince, row.phase],
          [change.intentAt, change.priceMinor, change.leadId, change.lines, change.finalSince, "seen"],
        );
      }
    },
  },
  {
    name: "a saved field that is undefined is cleared, one that is absent stays",
    async run({ orders }) {
      await orders.observe("default", [order("1")], at(1));
      await orders.save([{ ...key("1"), intentAt: at(5), lastError: "е", priceMinor: 1_598_000, contactId: "3" }], 1);
      await orders.save([{ ...key("1"), intentAt: undefined, lastError: undefined }], 1);
      const row = await orders.get(key("1"));
      deepEqual(
        [row?.intentAt, row?.lastError, row?.priceMinor, row?.contactId],
        [undefined, undefined, 1_598_000, "3"],
      );
    },
  },
  {
    name: "due rows are the unfinished ones whose time has come, the oldest first",
    async run({ orders }) {
      const given = ["5", "4", "3", "2", "1"].map((code) => order(code, { orderedAt: at(Number(code)) }));
      await orders.observe("default", given, at(10));
      await orders.save(
        [
          { ...key("1"), phase: "done" },
          { ...key("2"), dueAt: at(20) },
          { ...key("3"), phase: "parked" },
        ],
        1,
      );
      deepEqual(codes(await orders.due("default", { at: at(10), limit: 2 })), ["3", "4"]);
      deepEqual(codes(await orders.due("default", { at: at(20), limit: 9 })), ["2", "3", "4", "5"]);
      deepEqual(codes(await orders.due("default", { at: at(9), limit: 9 })), []);
      deepEqual(codes(await orders.parked(9)), ["3"]);
    },
  },
  {
    name: "open rows can still change: page by page, without repeating or missing one of the same moment",
    async run({ orders }) {
      const given = ["1", "2", "3", "4", "5"].map((code) => order(code, { orderedAt: at(code < "4" ? 1 : 2) }));
      await orders.observe("default", given, at(10));
      await orders.observe("default", [order("5", { isFinal: true, status: "COMPLETED" })], at(11));
      const done = ["1", "2", "3", "4", "5"].map((code) => ({ ...key(code), phase: "done" as const }));
      await orders.save([...done, { ...key("2"), phase: "skipped" as const }], 1);
      const page = (after: { orderedAt: Date; code: string } | undefined, finalAfter: Date) =>
        orders.open("default", { finalAfter, orderedBefore: at(9), after, limit: 2 });
      const first = await page(undefined, at(11));
      deepEqual(codes(first), ["1", "3"]);
      deepEqual(codes(await page(first.at(-1), at(11))), ["4"]);
      deepEqual(codes(await page(first.at(-1), at(10))), ["4", "5"]);
      deepEqual(codes(await page({ orderedAt: at(2), code: "5" }, at(10))), []);
    },
  },
  {
    name: "rows are found by lead, and learn the stage that the lead is in",
    async run({ orders }) {
      await orders.observe("default", [order("1"), order("2")], at(1));
      await orders.save(
        [
          { ...key("1"), leadId: "10", stageId: "1", seenStageId: "1" },
          { ...key("2"), leadId: "20" },
        ],
        1,
      );
      await orders.noteStages(
        new Map([
          ["10", "2"],
          ["30", "3"],
        ]),
      );
      const [row] = await orders.byLead(["10"]);
      deepEqual([row?.code, row?.stageId, row?.seenStageId], ["1", "1", "2"]);
      equal((await orders.get(key("2")))?.seenStageId, undefined);
    },
  },
  {
    name: "of several contacts with one phone the smallest id is found, and a change replaces all phones",
    async run({ contacts }) {
      await contacts.replace([
        { contactId: "100", hashes: ["h1", "h2", "h1"] },
        { contactId: "20", hashes: ["h1"] },
      ]);
      deepEqual([...(await contacts.find(["h1", "h2", "h3"]))].sort(), [
        ["h1", "20"],
        ["h2", "100"],
      ]);
      await contacts.replace([
        { contactId: "20", hashes: ["h3"] },
        { contactId: "100", hashes: [] },
      ]);
      deepEqual([...(await contacts.find(["h1", "h2", "h3"]))], [["h3", "20"]]);
      equal(await contacts.secret(), await contacts.secret());
      deepEqual([...(await contacts.find([]))], []);
    },
  },
  {
    name: "erasing a phone deletes every phone of the contacts that have it, and leaves the others",
    async run({ contacts }) {
      await contacts.replace([
        { contactId: "100", hashes: ["h1", "h2"] },
        { contactId: "20", hashes: ["h1"] },
        { contactId: "30", hashes: ["h4"] },
      ]);
      deepEqual(await contacts.erase(["h1", "h9"]), ["20", "100"]);
      deepEqual([...(await contacts.find(["h1", "h2", "h4"]))], [["h4", "30"]]);
      deepEqual(await contacts.erase(["h1"]), []);
      deepEqual(await contacts.erase([]), []);
    },
  },
  {
    name: "elements are found by catalog and SKU, replaced and forgotten",
    async run({ elements }) {
      await elements.add("1", [
        { sku: "a", elementId: "10" },
        { sku: "A", elementId: "11" },
      ]);
      await elements.add("2", [{ sku: "a", elementId: "20" }]);
      await elements.add("1", [{ sku: "a", elementId: "12" }]);
      deepEqual([...(await elements.find("1", ["a", "A", "b"]))].sort(), [
        ["A", "11"],
        ["a", "12"],
      ]);
      await elements.forget("1", ["12", "20"]);
      deepEqual([...(await elements.find("1", ["a", "A"]))], [["A", "11"]]);
      deepEqual([...(await elements.find("2", ["a"]))], [["a", "20"]]);
      await elements.add("1", [{ sku: "s".repeat(500), elementId: "13" }]); // longer than a key: need not be kept
    },
  },
  ...eventInboxCases,
];
