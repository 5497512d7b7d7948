import type { Clock, FetchHandler } from "@orderbridge/core";
import { type Answer, type Caller, type Method, Refused, type Row, type Values } from "./fake-bitrix-answer.ts";
import { runFakeBatch } from "./fake-bitrix-batch.ts";
import type { FakeLimits, RunningTime, TimeAccount } from "./fake-bitrix-limits.ts";
import type { FakeOAuth } from "./fake-bitrix-oauth.ts";
import { nestPhpNames, parsePhpForm } from "./php-form.ts";

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
  /** That its commands took so far. */
  seconds: number;
  busyMs: number;
  /** Of its commands, so far. */
  readonly times: Row[];
}

interface Executed {
  readonly answer: Answer;
  readonly time: Values;
}

/** How a command of a batch is counted: by the documents, by a measurement, or by the portal's source. */
export type BatchAccounting = "methods" | "batch" | "no-credential";

/** Looks at a command before it runs; what it gives is the refusal that the command ends with. */
export type BeforeCommand = (
  method: string,
  parameters: Values,
) => { readonly status: number; readonly error: unknown; readonly description?: string } | undefined;

/** Seconds that a request may run. */
const longestRequest = 60;

class CutOff extends Error {
  override readonly name = "CutOff";
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
  readonly batchAccounting?: BatchAccounting | undefined;
  readonly takesTime?: boolean | undefined;
  readonly countCost?: number | undefined;
}) {
  let redirectOrigin: string | undefined;
  let beforeCommand: BeforeCommand | undefined;

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

  /** Under whose name a command is counted; under `batch` at half weight. */
  function accountOf(method: string, { caller, isBatch }: RequestState): TimeAccount {
    const own = { credential: caller.credential, method };
    if (!isBatch || batchAccounting === "methods") return own;
    if (batchAccounting === "batch") return { ...own, method: "batch" };
    return caller.isApplication ? own : { ...own, credential: "" };
  }

  /** Runs a command and books its time. */
  async function execute(method: string, parameters: Values, request: RequestState): Promise<Executed> {
    const { time, caller } = request;
    // One request may run for 60 s: what it did until then stays done.
    if (request.seconds >= longestRequest) throw new CutOff();
    const account = accountOf(method, request);
    // The batch that crosses the limit runs to its end.
    if (account.method === method) time.check(account);
    const refusal = beforeCommand?.(method, parameters);
    if (refusal) throw new Refused(refusal.status, refusal.error, refusal.description ?? "");
    const answer = run(method, parameters, caller);
    const counts = answer.total !== undefined && Number(parameters.start ?? 0) >= 0;
    const cost = (costs[method] ?? 0.05) + (counts ? countCost : 0);
    request.seconds += cost;
    time.add(account, account.method === "batch" ? cost / 2 : cost);
    if (takesTime) {
      request.busyMs += cost * 1000;
      const behindMs = request.startedAt + request.busyMs - clock.monotonicMs();
      if (behindMs > 0) await clock.sleep(behindMs);
    }
    const told: Row = { ...time.describe(account, cost) };
    request.times.push(told);
    return { answer, time: told };
  }

  async function readParameters(request: Request, url: URL): Promise<Values> {
    const query = parsePhpForm(url.search.slice(1));
    if (request.method === "GET") return query;
    const type = request.headers.get("content-type") ?? "";
    if (type.includes("multipart/form-data")) {
      const parts = [...(await request.formData())].filter(
        (part): part is [string, string] => typeof part[1] === "string",
      );
      return { ...query, ...nestPhpNames(parts) };
    }
    const text = await request.text();
    if (!type.includes("json")) return { ...query, ...parsePhpForm(text) };
    try {
      const body = JSON.parse(text);
      return typeof body === "object" && body !== null ? { ...query, ...body } : query;
    } catch {
      return query; // swallowed, as by the portal: the method then misses its parameters
    }
  }

  async function answer(method: string, parameters: Values, caller: Caller): Promise<Response> {
    const time = limits.begin();
    const state: RequestState = {
      time,
      caller,
      isBatch: method === "batch",
      startedAt: clock.monotonicMs(),
      seconds: 0,
      busyMs: 0,
      times: [],
    };
    try {
      if (method !== "batch") {
        const executed = await execute(method, parameters, state);
        return Response.json({ ...executed.answer, time: executed.time });
      }
      const account = { credential: caller.credential, method };
      time.check(account);
      const result = await runFakeBatch(parameters, (name, values) => execute(name, values, state));
      const told = time.describe(account, 0);
      if (batchAccounting === "batch") {
        // All its commands tell the sum of the batch.
        const { operating, operating_reset_at } = told;
        for (const row of state.times) Object.assign(row, { operating, operating_reset_at });
      }
      return Response.json({ result, time: told });
    } catch (error) {
      if (!(error instanceof CutOff)) throw error;
      return new Response("<html><h1>504 Gateway Time-out</h1></html>", {
        status: 504,
        headers: { "content-type": "text/html" },
      });
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
      // The web server in front counts, so calls without a right to be made count too.
      limits.takeRequest(request.headers.get("x-forwarded-for") ?? "one address");
      const { auth, access_token: accessToken, ...parameters } = await readParameters(request, url);
      const isApplication = parts.length === 0;
      if (isApplication) oauth.checkToken(auth ?? accessToken);
      else if (parts.join("/") !== `${userId}/${secret}`) {
        throw new Refused(401, "INVALID_CREDENTIALS", "Invalid request credentials");
      }
      const credential = isApplication ? clientId : `${userId}/${secret}`;
      return await answer(method, parameters, { credential, isApplication, connector: "" });
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
    setBeforeCommand(next: BeforeCommand | undefined): void {
      beforeCommand = next;
    },
  };
}
