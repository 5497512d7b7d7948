import { createHttpClient, type HttpClient } from "@orderbridge/core";
import type { Hosts, Shop } from "./shop.ts";

/** The way out to one of Robokassa's hosts. */
export function createServiceClient(shop: Shop, host: keyof Hosts): HttpClient {
  const { fetch, clock, logger } = shop;
  return createHttpClient({
    vendor: "robokassa",
    baseUrl: shop.hosts[host],
    clock,
    logger,
    ...(fetch ? { fetch } : {}),
  });
}
