import { expect, test } from "vitest";
import * as main from "../src/index.ts";
import * as kysely from "../src/kysely/index.ts";
import * as memory from "../src/memory/index.ts";
import * as testing from "../src/testing/index.ts";

test("exports these names and no others", () => {
  expect(Object.keys(main).sort()).toEqual([
    "InputError",
    "bitrixOrderStatuses",
    "createBackendApi",
    "createBitrix",
    "createBitrixConnection",
    "createDealSide",
    "createDealSweep",
    "createEventHandler",
    "createOfflineQueue",
    "createOrderSide",
    "createOrderStatusHandler",
    "createOrders",
    "createProductSync",
    "createSaleOrderSide",
    "createSaleOrderSweep",
    "createStatusSync",
    "createSyncHandlers",
    "createWorker",
    "dealEvents",
    "dealTopic",
    "fromDecimalText",
    "orderTopic",
    "productTopic",
    "reference",
    "toDecimalText",
  ]);
  expect(Object.keys(kysely)).toEqual(["createBitrixStorage"]);
  expect(Object.keys(memory)).toEqual(["createBitrixMemoryStorage"]);
  expect(Object.keys(testing).sort()).toEqual(["bitrixStorageCases", "createFakeBitrix", "createFakeBitrixSite"]);
});
