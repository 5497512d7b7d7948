import type { Clock, FetchHandler } from "@orderbridge/core";
import { type Answer, type Caller, type Method, Refused, type Values } from "./fake-bitrix-answer.ts";
import { runFakeBatch } from "./fake-bitrix-batch.ts";
import type { FakeLimits, RunningTime } from "./fake-bitrix-limits.ts";
import type { FakeOAuth } from "./fake-bitrix-oauth.ts";
import { parsePhpForm } from "./php-form.ts";

/** Seconds, from the examples of the methods' pages. */
const sampleCosts: Readonly<Record<string, number>> = {
  "crm.item.update": 3.19,
  "crm.deal.update": 1.35,
  "sale.order.update": 0.99,
  "catalog.price.update": 0.011,
  "sale.payment.update": 4.14,
};

/** What one HTTP request holds while it runs. */
interface RequestState {
  readonly time: RunningTime;
  readonly caller: Caller;
  readonly isBatch: boolean;
  readonly startedAt: number;
  busyMs: number;
}

interface Executed {
  readonly answer: Answer;
  readonly time: Values;
}

/** The door of the portal: addresses, parameters, credentials, limits, and single calls or batches behind them. */
export function createFakeHttp({
  clock,
  userId,
  secret,
  clientId,
  limits,
  oauth,
  methods,
  applicationMethods,
  costs = sampleCosts,
  batchAccounting = "methods",
  takesTime = false,
  countCost = 0,
}: {
  readonly clock: Clock;
  readonly userId: number;
  readonly secret: string;
  readonly clientId: string;
  readonly limits: FakeLimits;
  readonly oauth: FakeOAuth;
  readonly methods: Readonly<Record<string, Method>>;
  /** Those that a webhook is refused. */
  readonly applicationMethods: Readonly<Record<string, Method>>;
  readonly costs?: Readonly<Record<string, number>> | undefined;
  readonly batchAccounting?: "methods" | "batch" | undefined;
  readonly takesTime?: boolean | undefined;
  readonly countCost?: number | undefined;
}) {
  let redirectOrigin: string | undefined;

  function run(method: string, parameters: Values, caller: Caller): Answer {
    const forApplications = applicationMethods[method];
    const known = methods[method] ?? (caller.isApplication ? forApplications : undefined);
    if (!known) {
      if (forApplications || /^(event|placement)\./.test(method)) {
        throw new Refused(403, "WRONG_AUTH_TYPE", "Current authorization type is denied for this method");
      }
      throw new Refused(404, "ERROR_METHOD_NOT_FOUND", "Method not found!");
    }
    const connector = parameters.auth_connector;
    return known(parameters, connector === undefined ? caller : { ...caller, connector: String(connector) });
  }

  /** Runs a command and books its time, under its own method or under `batch` at half weight. */
  async function execute(method: string, parameters: Values, request: RequestState): Promise<Executed> {
    const { time, caller, isBatch } = request;
    time.check(method);
    const answer = run(method, parameters, caller);
    const counts = answer.total !== undefined && Number(parameters.start ?? 0) >= 0;
    const cost = (costs[method] ?? 0.05) + (counts ? countCost : 0);
    const account = isBatch && batchAccounting === "batch" ? "batch" : method;
    time.add(account, account === "batch" ? cost / 2 : cost);
    if (takesTime) {
      request.busyMs += cost * 1000;
      const behindMs = request.startedAt + request.busyMs - clock.monotonicMs();
      if (behindMs > 0) await clock.sleep(behindMs);
    }
    return { answer, time: time.describe(account, cost) };
  }

  async function readParameters(request: Request, url: URL): Promise<Values> {
    const query = parsePhpForm(url.search.slice(1));
    if (request.method === "GET") return query;
    const text = await request.text();
    if (!(request.headers.get("content-type") ?? "").includes("json")) return { ...query, ...parsePhpForm(text) };
    try {
      const body = JSON.parse(text);
      return typeof body === "object" && body !== null ? { ...query, ...body } : query;
    } catch {
      return query; // swallowed, as by the portal: the method then misses its parameters
    }
  }

  async function answer(request: Request, method: string, parameters: Values, caller: Caller): Promise<Response> {
    limits.takeRequest(request.headers.get("x-forwarded-for") ?? "one address");
    const time = limits.begin(caller.credential);
    const state: RequestState = {
      time,
      caller,
      isBatch: method === "batch",
      startedAt: clock.monotonicMs(),
      busyMs: 0,
    };
    try {
      if (method !== "batch") {
        const executed = await execute(method, parameters, state);
        return Response.json({ ...executed.answer, time: executed.time });
      }
      time.check("batch");
      const result = await runFakeBatch(parameters, (name, values) => execute(name, values, state));
      return Response.json({ result, time: time.describe("batch", 0) });
    } finally {
      time.end();
    }
  }

  const handle: FetchHandler = async (request) => {
    const url = new URL(request.url);
    if (url.pathname === "/oauth/token/") return oauth.giveTokens(request, url);
    const [, prefix, ...parts] = url.pathname.replace(/\/{2,}/g, "/").split("/");
    const rawMethod = parts.pop() ?? "";
    const method = rawMethod.replace(/\.json$/, "").toLowerCase();
    if (prefix !== "rest") return new Response("Not found", { status: 404 });
    if (redirectOrigin !== undefined) {
      return new Response(null, {
        status: 302,
        headers: { location: `${redirectOrigin}${url.pathname}${url.search}` },
      });
    }
    try {
      const { auth, ...parameters } = await readParameters(request, url);
      const isApplication = parts.length === 0;
      if (isApplication) oauth.checkToken(auth);
      else if (parts.join("/") !== `${userId}/${secret}`) {
        throw new Refused(401, "INVALID_CREDENTIALS", "Invalid request credentials");
      }
      const credential = isApplication ? clientId : `${userId}/${secret}`;
      return await answer(request, method, parameters, { credential, isApplication, connector: "" });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return Response.json(error.body, { status: error.status });
    }
  };

  return {
    handle,
    redirectTo(origin: string | undefined): void {
      redirectOrigin = origin;
    },
  };
}
