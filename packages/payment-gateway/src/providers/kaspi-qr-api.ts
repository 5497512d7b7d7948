import {
  createHttpClient,
  type HttpAnswer,
  type Refusal,
  RequestError,
  ResponseShapeError,
  SdkError,
} from "@orderbridge/core";
import { numberSource, parseExactJson } from "../exact-json.ts";
import type { KaspiQrOptions } from "./kaspi-qr.ts";

/**
 * `StatusCode` of the answers. `unknown`: the call may have run, so the outcome is looked up.
 *
 * @see "Public QR API" v3.9, table of codes. Codes that it lists for remote calls without a word are a no like the rest
 */
export const kaspiQrCodes: Readonly<
  Record<string, { readonly means: string; readonly outcome: "refused" | "unknown" }>
> = {
  "-999": { means: "service temporarily unavailable", outcome: "unknown" },
  "-10000": { means: "no client certificate", outcome: "refused" },
  "-1401": { means: "remote call refused", outcome: "refused" },
  "-1404": { means: "remote call refused", outcome: "refused" },
  "-1501": { means: "device not found", outcome: "refused" },
  "-1502": { means: "device not active", outcome: "refused" },
  "-1503": { means: "device already in another trade point", outcome: "refused" },
  "-1601": { means: "purchase not found", outcome: "refused" },
  "-14000002": { means: "no trade points: create one in the application", outcome: "refused" },
  "-99000001": { means: "purchase with this id not found", outcome: "refused" },
  "-99000002": { means: "trade point not found", outcome: "refused" },
  "-99000003": { means: "the purchase belongs to another trade point", outcome: "refused" },
  "-99000005": { means: "refund exceeds the purchase", outcome: "refused" },
  "-99000006": { means: "refund error: try again, then ask the bank", outcome: "unknown" },
  "-99000011": { means: "wrong status of the purchase for a refund", outcome: "refused" },
  "-99000020": { means: "partial refund impossible", outcome: "refused" },
  "990000018": { means: "trade point switched off", outcome: "refused" },
  "990000026": { means: "trade point does not accept QR", outcome: "refused" },
  "990000028": { means: "wrong amount", outcome: "refused" },
  "990000029": { means: "remote call refused", outcome: "refused" },
  "990000031": { means: "remote call refused", outcome: "refused" },
  "990000032": { means: "remote call refused", outcome: "refused" },
  "99000010": { means: "remote call refused", outcome: "refused" },
  "990000033": { means: "no payment methods available", outcome: "refused" },
};

export type Data = Readonly<Record<string, unknown>>;

export const shapeError = (path: string, field: string): ResponseShapeError =>
  new ResponseShapeError(`kaspi-qr: ${path} answered without a usable ${field}`, {
    vendor: "kaspi-qr",
    status: 200,
    paths: [`Data.${field}`],
    outcome: "executed",
  });

/** Text, or the digits of a number as they were sent. */
export function optionalText(data: Data, field: string): string | undefined {
  const value = data[field];
  if (typeof value === "string") return value;
  return numberSource(value);
}

export function textOf(data: Data, field: string, path: string): string {
  const text = optionalText(data, field);
  if (text === undefined || text === "") throw shapeError(path, field);
  return text;
}

export function objectOf(data: Data, field: string): Data {
  const value = data[field];
  return typeof value === "object" && value !== null ? (value as Data) : {};
}

/** `StatusCode` decides, not the HTTP status. */
function readRefusal({ status, text }: HttpAnswer): Refusal | undefined {
  if (status === 429) return { vendorCode: "429", outcome: "not-executed" };
  const code = readCode(text);
  if (code === undefined || (code === "0" && status < 300)) return undefined; // not of this API: the HTTP status decides
  if (code === "0") return { vendorCode: String(status), outcome: "unknown" };
  return { vendorCode: code, outcome: kaspiQrCodes[code]?.outcome ?? "unknown" };
}

function readCode(text: string): string | undefined {
  try {
    return numberSource(objectOf({ answer: parseExactJson(text) }, "answer").StatusCode);
  } catch {
    return undefined;
  }
}

/** The calls; a device is registered with the first one, which may be repeated and gives the same token again. */
export function createKaspiQrApi(options: KaspiQrOptions) {
  const { scheme, organizationBin, deviceId, tradePointId, apiKey, timeoutMs = 15_000 } = options;
  const client = createHttpClient({
    vendor: "kaspi-qr",
    baseUrl: `${options.origin.replace(/\/+$/, "")}/${scheme}/v01`,
    headers: async () => ({
      "x-request-id": crypto.randomUUID(),
      ...(apiKey === undefined ? {} : { "api-key": apiKey }),
    }),
    timeoutMs,
    retries: 2,
    readRefusal,
    ...(options.minDelayMs === undefined ? {} : { minDelayMs: options.minDelayMs }),
    ...(options.fetch ? { fetch: options.fetch } : {}),
    ...(options.clock ? { clock: options.clock } : {}),
    ...(options.logger ? { logger: options.logger } : {}),
  });
  const bin = scheme === "r3" ? { OrganizationBin: organizationBin ?? "" } : {};
  let device: Promise<string> | undefined;

  function read(answer: HttpAnswer, path: string): Data {
    let body: unknown;
    try {
      body = parseExactJson(answer.text);
    } catch {
      throw shapeError(path, "StatusCode");
    }
    if (numberSource(objectOf({ body }, "body").StatusCode) !== "0") throw shapeError(path, "StatusCode");
    return objectOf(body as Data, "Data");
  }

  async function send(path: string, fields: Readonly<Record<string, string>>, safe: boolean): Promise<Data> {
    const { Amount: amount, ...rest } = { ...bin, ...fields } as Readonly<Record<string, string>>;
    // The amount goes out digit for digit, as the JSON number that the document asks for.
    const text = JSON.stringify(rest);
    const json = amount === undefined ? text : `${text.slice(0, -1)}${text === "{}" ? "" : ","}"Amount":${amount}}`;
    const headers = { "content-type": "application/json" };
    // The name of a call holds no id: path parts that follow are not of it.
    return read(await client.send({ name: path, method: "POST", path, headers, text: json, safe }), path);
  }

  async function deviceToken(): Promise<string> {
    device ??= send("/device/register", { DeviceId: deviceId, TradePointId: tradePointId }, true).then((data) =>
      textOf(data, "DeviceToken", "/device/register"),
    );
    try {
      return await device;
    } catch (error) {
      device = undefined;
      if (!SdkError.isInstance(error)) throw error;
      // Whatever became of the registration, the call that needs it was not sent.
      throw new RequestError(error.message, { vendor: "kaspi-qr", code: "network", outcome: "not-executed" });
    }
  }

  /** A device that the vendor no longer knows is registered again: the call was refused, so it may be made once more. */
  async function withDevice(call: (token: string) => Promise<Data>): Promise<Data> {
    try {
      return await call(await deviceToken());
    } catch (error) {
      const code = SdkError.isInstance(error) && "vendorCode" in error ? error.vendorCode : undefined;
      if (code !== "-1501" && code !== "-1502") throw error;
      device = undefined;
      return call(await deviceToken());
    }
  }

  return {
    post: (path: string, fields: Readonly<Record<string, string>>): Promise<Data> =>
      withDevice((DeviceToken) => send(path, { ...fields, DeviceToken }, false)),
    /** Never repeated by itself: questions about a payment keep an interval. */
    get: async (path: string, id: string): Promise<Data> =>
      read(await client.send({ name: path, path: `${path}/${encodeURIComponent(id)}`, safe: false }), path),
    details: (QrPaymentId: string): Promise<Data> =>
      withDevice(async (DeviceToken) => {
        const name = "/payment/details";
        return read(
          await client.send({ name, path: name, query: new URLSearchParams({ QrPaymentId, DeviceToken }) }),
          name,
        );
      }),
  };
}

export type KaspiQrApi = ReturnType<typeof createKaspiQrApi>;
