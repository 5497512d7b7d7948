import { expect, test } from "vitest";
import * as root from "../src/index.ts";
import * as kysely from "../src/kysely/index.ts";
import * as memory from "../src/memory/index.ts";
import * as testing from "../src/testing/index.ts";

test("exports exactly these names", () => {
  expect(Object.keys(root).sort()).toEqual([
    "InputError",
    "algorithms",
    "captureOrder",
    "createReconciler",
    "createResult2Handler",
    "createResultHandler",
    "createRobokassa",
    "diagnose",
    "placeOrder",
    "placeOrderForm",
    "readCertificates",
    "refreshRefunds",
    "refundOrder",
    "robokassaAddresses",
    "sign",
    "signatureBase",
    "sortShp",
  ]);
  expect(Object.keys(memory)).toEqual(["createRobokassaMemoryStorage"]);
  expect(Object.keys(kysely)).toEqual(["createRobokassaStorage"]);
  expect(Object.keys(testing).sort()).toEqual([
    "createFakeCertificate",
    "createFakeRobokassa",
    "robokassaStorageCases",
  ]);
});
