import { createHash } from "node:crypto";
import type { Clock } from "@orderbridge/core";
import { type Context, Hono, type MiddlewareHandler } from "hono";
import { html } from "hono/html";
import { refundableMinor } from "../decisions.ts";
import type { Payments } from "../gateway.ts";
import { isId, randomId } from "../ids.ts";
import { formatAmount, parseAmount } from "../money.ts";
import { type Payment, type PaymentStatus, paymentMoves, sums } from "../payment.ts";
import type { PaymentProvider, ProviderAttempt, ProviderContext } from "../provider.ts";
import { type ProviderHealth, shownDays } from "../provider-health.ts";
import { Refusal } from "../refusal.ts";
import type { DeliveryRecord, GatewayStorage, PaymentHistory } from "../storage.ts";
import { drawChart } from "./admin-chart.ts";
import { type AdminOptions, type AdminSession, createAdminSessions } from "./admin-session.ts";
import { readCursor, toCursor } from "./cursor.ts";
import { createAsset, type Html, pageHeaders } from "./page.ts";

const stylesheet = createAsset(
  "css",
  `
:root{color-scheme:light dark;font-family:system-ui,sans-serif;line-height:1.45}
body{margin:0;background:#fff;color:#16181d}
header{display:flex;gap:1rem;align-items:center;padding:.75rem 1rem;border-bottom:1px solid #d1d5db}
header form{margin-left:auto}
main{max-width:72rem;margin:0 auto;padding:1rem}
table{border-collapse:collapse;width:100%;font-size:.9rem;margin:.5rem 0 1.5rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .75rem .35rem 0;border-bottom:1px solid #e5e7eb;overflow-wrap:anywhere}
pre{background:#f3f4f6;padding:.75rem;border-radius:.5rem;white-space:pre-wrap;overflow-wrap:anywhere}
form{display:flex;flex-wrap:wrap;gap:.5rem;align-items:end;margin:.5rem 0}
label{display:block;font-size:.85rem}
input,select,button{font:inherit;padding:.35rem .6rem;border:1px solid #9ca3af;border-radius:.35rem}
button{background:#4338ca;color:#fff;border-color:#4338ca;cursor:pointer}
button.danger{background:#b91c1c;border-color:#b91c1c}
figure{margin:0 0 1.5rem}
svg{width:100%;max-width:48rem;height:auto;font-size:10px}
svg line{stroke:currentColor}
svg text{fill:currentColor}
rect.plain{fill:#6366f1}rect.good{fill:#16a34a}rect.bad{fill:#dc2626}
.key::before{content:"■ "}.key.plain::before{color:#6366f1}.key.good::before{color:#16a34a}.key.bad::before{color:#dc2626}
.problem{background:#fee2e2;color:#7f1d1d;padding:.5rem 1rem;border-radius:.5rem}
.test{background:#fef3c7;color:#713f12;padding:0 .4rem;border-radius:.3rem}
:focus-visible{outline:3px solid #f59e0b;outline-offset:2px}
@media(prefers-color-scheme:dark){body{background:#111318;color:#e5e7eb}pre{background:#1d2027}a{color:#a5b4fc}}
`,
);

export interface AdminPageOptions {
  readonly admin: AdminOptions;
  readonly storage: Pick<GatewayStorage, "listPayments" | "historyOf" | "health" | "activity" | "change">;
  readonly contextOf: (provider: PaymentProvider) => ProviderContext;
  readonly providerHealth: () => Promise<readonly ProviderHealth[]>;
  readonly payments: Payments;
  readonly providers: ReadonlyMap<string, PaymentProvider>;
  readonly findPayment: (id: string) => Promise<Payment | undefined>;
  readonly publicUrl: string;
  readonly clock: Clock;
}

interface Variables {
  readonly session: AdminSession;
  readonly form: URLSearchParams;
}
type AdminContext = Context<{ Variables: Variables }>;

const pageSize = 50;
const dayMs = 86_400_000;
const chartDays = 14;
const statuses = Object.keys(paymentMoves) as readonly PaymentStatus[];

/** `/admin`: payments of all merchants for the people who run the gateway. Plain forms; works without JavaScript. */
export function createAdminPages(options: AdminPageOptions): Hono<{ Variables: Variables }> {
  const { admin, storage, payments, providers, contextOf, providerHealth, findPayment, clock } = options;
  const { pathname, protocol } = new URL(options.publicUrl);
  const base = `${pathname.replace(/\/+$/, "")}/admin`;
  const sessions = createAdminSessions({ admin, clock, path: base, secure: protocol === "https:" });
  const app = new Hono<{ Variables: Variables }>();

  app.get(`/${stylesheet.path}`, () => stylesheet.answer());

  app.use(async (context, next) => {
    // Browsers say where a form was sent from; only our own pages may send any.
    const site = context.req.header("sec-fetch-site");
    const isOwn = site === undefined || site === "same-origin";
    if (context.req.method === "POST" && !isOwn)
      return page(context, 403, "Refused", problemText("This form was sent from another site."));
    return next();
  });

  app.get("/login", (context) => page(context, 200, "Log in", loginForm()));
  app.post("/login", async (context) => {
    const form = new URLSearchParams(await context.req.text());
    const result = sessions.login(context.req.raw, form.get("password") ?? "");
    if (result.state === "open") return goTo(context, base, { "set-cookie": result.cookie });
    if (result.state === "wrong") return page(context, 403, "Log in", loginForm("The password is wrong."));
    context.header("retry-after", "900");
    return page(context, 429, "Log in", loginForm("Too many wrong passwords. Try again in 15 minutes."));
  });

  const needsSession: MiddlewareHandler<{ Variables: Variables }> = async (context, next) => {
    const session = sessions.read(context.req.raw);
    if (!session) return goTo(context, `${base}/login`);
    context.set("session", session);
    if (context.req.method === "POST") {
      const form = new URLSearchParams(await context.req.text());
      if (!sessions.isCsrfToken(session, form.get("csrf") ?? "")) {
        return page(
          context,
          403,
          "Refused",
          problemText("This form is too old. Go back, reload the page and try again."),
        );
      }
      context.set("form", form);
    }
    return next();
  };
  app.use("*", needsSession);

  app.post("/logout", (context) => goTo(context, `${base}/login`, { "set-cookie": sessions.endCookie }));

  app.get("/", async (context) => {
    const search = searchText(context.req.query("q"));
    const status = statuses.find((known) => known === context.req.query("status"));
    const merchant = searchText(context.req.query("merchant"));
    const attention = context.req.query("attention") === "yes";
    const givenUp = context.req.query("webhooks") === "given-up";
    const after = readCursor(context.req.query("after") ?? "");
    const found = await storage.listPayments(
      {
        ...(search === "" ? {} : { search }),
        ...(status === undefined ? {} : { status }),
        ...(merchant === "" ? {} : { merchant }),
        ...(attention ? { needsAttention: true } : {}),
        ...(givenUp ? { givenUp: true } : {}),
        ...(after === undefined ? {} : { after }),
      },
      pageSize + 1,
    );
    const shown = found.slice(0, pageSize);
    const last = shown.at(-1);
    const next = new URLSearchParams({
      q: search,
      status: status ?? "",
      merchant,
      ...(attention ? { attention: "yes" } : {}),
      ...(givenUp ? { webhooks: "given-up" } : {}),
    });
    if (last) next.set("after", toCursor(last));
    return page(
      context,
      200,
      "Payments",
      html`<form method="get" action="${base}" role="search">
<label>Search<input name="q" value="${search}" placeholder="id, account, description, metadata"></label>
<label>Status<select name="status"><option value="">all</option>${statuses.map((one) => html`<option${one === status ? " selected" : ""}>${one}</option>`)}</select></label>
<label>Merchant<input name="merchant" value="${merchant}"></label>
<label><input type="checkbox" name="attention" value="yes"${attention ? " checked" : ""}> needs attention</label>
<label><input type="checkbox" name="webhooks" value="given-up"${givenUp ? " checked" : ""}> webhooks given up</label>
<button>Show</button>
</form>
<table><thead><tr><th>Created</th><th>Payment</th><th>Merchant</th><th>Amount</th><th>Status</th><th>Description</th></tr></thead>
<tbody>${shown.map(
        (payment) =>
          html`<tr><td>${instant(payment.createdAt)}</td><td><a href="${base}/payments/${payment.id}">${payment.id}</a></td><td>${payment.merchant}</td><td>${money(payment.amountMinor, payment)}</td><td>${payment.status}${flags(payment)}</td><td>${payment.description}</td></tr>`,
      )}</tbody></table>
${shown.length === 0 ? html`<p>No payment fits.</p>` : ""}
${found.length > pageSize ? html`<p><a href="${base}?${next.toString()}" rel="next">Older</a></p>` : ""}`,
    );
  });

  app.get("/health", async (context) => {
    const tomorrow = new Date((Math.floor(clock.now().getTime() / dayMs) + 1) * dayMs);
    const [health, days, attention, providerReports] = await Promise.all([
      storage.health(),
      storage.activity(new Date(tomorrow.getTime() - chartDays * dayMs), tomorrow),
      storage.listPayments({ needsAttention: true }, 20),
      providerHealth(),
    ]);
    const rows: readonly (readonly [string, string])[] = [
      ["Webhooks waiting", String(health.pending)],
      ["of these due now", String(health.due)],
      ["the oldest is due for", `${Math.round(health.lagMs / 1000)} s`],
      ["Webhooks given up", String(health.exhausted)],
      ["Refunds without an outcome", String(health.openRefunds)],
      ["Endpoints that are gone (410)", String(health.goneEndpoints)],
    ];
    return page(
      context,
      200,
      "Health",
      html`<table><tbody>${rows.map(([name, value]) => html`<tr><th scope="row">${name}</th><td>${value}</td></tr>`)}</tbody></table>
${health.exhausted > 0 ? html`<p><a href="${base}?webhooks=given-up">Payments with webhooks that were given up</a></p>` : ""}
${drawChart("Payments by day (UTC)", "chart-payments", days, [
  { name: "created", kind: "plain", of: ({ created }) => created },
  { name: "paid", kind: "good", of: ({ paid }) => paid },
])}
${drawChart("Webhook tries by day (UTC)", "chart-deliveries", days, [
  { name: "delivered", kind: "good", of: ({ delivered }) => delivered },
  { name: "failed", kind: "bad", of: ({ failed }) => failed },
])}
<h2>Needs a person</h2>
${attention.length === 0 ? html`<p>Nothing.</p>` : html`<ul>${attention.map(({ id, needsAttention }) => html`<li><a href="${base}/payments/${id}">${id}</a> ${needsAttention}</li>`)}</ul>`}
<h2>Providers</h2>
<p>Calls that failed, of all processes together.</p>
<table><thead><tr><th>Provider</th><th>Today (UTC)</th><th>In ${shownDays} days</th><th>The last one</th></tr></thead><tbody>${providerReports.map(
        ({ provider, today, recent, last }) =>
          html`<tr><td>${provider}</td><td>${today}</td><td>${recent}</td><td>${last ? `${instant(last.at)} ${last.call}: ${last.message}` : ""}</td></tr>`,
      )}</tbody></table>
<h2>Receivers that are not called for a while</h2>
<table><thead><tr><th>Host</th><th>Merchant</th><th>Failures in a row</th><th>Until</th></tr></thead><tbody>${health.pausedReceivers.map(
        ({ origin, merchant, failures, until }) =>
          html`<tr><td>${hostOf(origin)}</td><td>${merchant}</td><td>${failures}</td><td>${instant(until)}</td></tr>`,
      )}</tbody></table>
<h2>Receivers that fail</h2>
<table><thead><tr><th>Host</th><th>Webhooks to repeat</th></tr></thead><tbody>${health.failingReceivers.map(
        ({ url, deliveries }) => html`<tr><td>${hostOf(url)}</td><td>${deliveries}</td></tr>`,
      )}</tbody></table>`,
    );
  });

  app.get("/payments/:id", async (context) => showPayment(context, await named(context)));

  app.post("/payments/:id/cancel", async (context) => {
    const payment = await named(context);
    if (context.get("form").get("confirmed") !== "yes") {
      return confirm(context, payment, "cancel", `Cancel this payment of ${money(payment.amountMinor, payment)}?`, {});
    }
    return act(context, payment, () => payments.cancel(payment.merchant, payment.id));
  });

  app.post("/payments/:id/refund", async (context) => {
    const payment = await named(context);
    const form = context.get("form");
    const amount = parseAmount((form.get("amount") ?? "").trim().replace(",", "."));
    if (!amount.ok || amount.amountMinor === 0n) {
      return showPayment(context, payment, 400, "The sum must be a decimal number such as 500.00.");
    }
    const { amountMinor } = amount;
    if (form.get("confirmed") !== "yes") {
      return confirm(context, payment, "refund", `Give ${money(amountMinor, payment)} back to the payer?`, {
        amount: formatAmount(amountMinor),
        key: randomId("admin_"), // a form that is sent twice is one refund
      });
    }
    const key = form.get("key") ?? "";
    if (!isId(key)) return showPayment(context, payment, 400, "The form was incomplete. Try again.");
    const fingerprint = createHash("sha256").update(`admin ${payment.id} ${amountMinor}`).digest("hex");
    return act(context, payment, () =>
      payments.refund({
        merchant: payment.merchant,
        id: payment.id,
        amountMinor,
        idempotency: { key, fingerprint },
      }),
    );
  });

  app.post("/payments/:id/give-up", async (context) => {
    const payment = await named(context);
    if (context.get("form").get("confirmed") !== "yes") {
      const question = "Have you made sure that this attempt took no money? The payer may then try again.";
      return confirm(context, payment, "give-up", question, {});
    }
    return act(context, payment, async () => {
      const provider = providers.get(payment.provider);
      if (!(await provider?.giveUpAttempt?.(payment, contextOf(provider)))) {
        throw new Refusal("conflict", noUnknownAttempt);
      }
    });
  });

  app.post("/payments/:id/record", async (context) => {
    const payment = await named(context);
    const form = context.get("form");
    const amount = parseAmount((form.get("amount") ?? "").trim().replace(",", "."));
    const transaction = (form.get("transaction") ?? "").trim();
    if (!amount.ok || amount.amountMinor === 0n || !/^[\w.-]{1,100}$/.test(transaction)) {
      return showPayment(context, payment, 400, "Give the number of the transaction and its sum, such as 500.00.");
    }
    const { amountMinor } = amount;
    if (form.get("confirmed") !== "yes") {
      const question = `Record ${money(amountMinor, payment)} as paid by transaction ${transaction}?`;
      return confirm(context, payment, "record", question, { transaction, amount: formatAmount(amountMinor) });
    }
    return act(context, payment, async () => {
      const provider = providers.get(payment.provider);
      const context = provider && contextOf(provider);
      const found = { transactionId: transaction, amountMinor, currency: payment.currency };
      if (context && (await provider.recordMoney?.(payment, context, found))) return;
      const isBooked = (await context?.findBooking(transaction)) !== undefined;
      throw new Refusal("conflict", isBooked ? "this transaction is booked already" : noUnknownAttempt);
    });
  });

  app.post("/payments/:id/settle-refund", async (context) => {
    const payment = await named(context);
    const form = context.get("form");
    const [refund, outcome] = [form.get("refund") ?? "", form.get("outcome")];
    if (!isId(refund) || (outcome !== "succeeded" && outcome !== "failed")) {
      return showPayment(context, payment, 400, "The form was incomplete. Try again.");
    }
    if (form.get("confirmed") !== "yes") {
      const question =
        outcome === "succeeded"
          ? `Have you seen at ${payment.provider} that the refund ${refund} was given back?`
          : `Have you made sure at ${payment.provider} that the refund ${refund} was not given back, and will not be?`;
      return confirm(context, payment, "settle-refund", question, { refund, outcome });
    }
    return act(context, payment, () => payments.settleRefund(payment.merchant, payment.id, refund, outcome));
  });

  app.post("/payments/:id/seen", async (context) => {
    const payment = await named(context);
    const attention = context.get("form").get("attention") ?? "";
    if (context.get("form").get("confirmed") !== "yes") {
      return confirm(context, payment, "seen", `Has this been seen to: ${attention}?`, { attention });
    }
    return act(context, payment, async () => {
      if (!mayBeSeenTo(payment, await storage.historyOf(payment.id))) {
        throw new Refusal("conflict", "its attempt or refund is open; say what became of that");
      }
      const result = await storage.change(payment.id, (current) => {
        const { needsAttention, ...rest } = current;
        return needsAttention === attention ? { payment: rest } : undefined;
      });
      if (result.state !== "changed") throw new Refusal("conflict", "something else was said meanwhile");
    });
  });

  app.post("/payments/:id/resend", async (context) => {
    const payment = await named(context);
    return act(context, payment, () => payments.resend(payment.merchant, context.get("form").get("event") ?? ""));
  });

  app.all("*", (context) => {
    if (context.req.method === "GET" && context.req.path.endsWith("/admin/")) return goTo(context, base);
    return page(context, 404, "Not found", problemText("There is nothing at this address."));
  });

  app.onError((error, context) => {
    if (error instanceof Refusal && error.code === "not_found") {
      return page(context, 404, "Not found", problemText("There is no such payment."));
    }
    throw error;
  });

  /** What says that an attempt or a refund is open ends with it. */
  function mayBeSeenTo(payment: Payment, { refunds }: PaymentHistory): boolean {
    const provider = providers.get(payment.provider);
    return (
      payment.needsAttention !== undefined &&
      !(provider && isAttemptUnknown(provider, payment)) &&
      refunds.every(({ status }) => status !== "pending")
    );
  }

  async function named(context: AdminContext): Promise<Payment> {
    const payment = await findPayment(context.req.param("id") ?? "");
    if (!payment) throw new Refusal("not_found", "there is no such payment");
    return payment;
  }

  /** Does it and shows the payment; a refusal is shown beside it. */
  async function act(context: AdminContext, payment: Payment, action: () => Promise<unknown>): Promise<Response> {
    try {
      await action();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return showPayment(context, await named(context), 409, `Refused: ${error.message}.`);
    }
    return goTo(context, `${base}/payments/${payment.id}`);
  }

  function confirm(
    context: AdminContext,
    payment: Payment,
    action: "cancel" | "refund" | "give-up" | "record" | "settle-refund" | "seen",
    question: string,
    fields: Readonly<Record<string, string>>,
  ) {
    return page(
      context,
      200,
      "Are you sure?",
      html`<p>${question}</p><p>${payment.id} ${payment.description}</p>
<form method="post" action="${base}/payments/${payment.id}/${action}">${hidden(context, { ...fields, confirmed: "yes" })}<button class="danger">Yes, ${action.replace("-", " ")}</button></form>
<p><a href="${base}/payments/${payment.id}">No, go back</a></p>`,
    );
  }

  async function showPayment(context: AdminContext, payment: Payment, status: 200 | 400 | 409 = 200, problem?: string) {
    const [history, deliveries] = await Promise.all([
      storage.historyOf(payment.id),
      payments.deliveries(payment.merchant, payment.id),
    ]);
    const { remainingMinor, overpaidMinor } = sums(payment);
    const leftMinor = refundableMinor(payment);
    const provider = providers.get(payment.provider);
    const attempts = provider?.attempts?.(payment) ?? [];
    const isUnknown = provider !== undefined && isAttemptUnknown(provider, payment);
    const facts: readonly (readonly [string, string])[] = [
      ["Status", payment.status],
      ["Merchant", payment.merchant],
      ["Provider", payment.provider],
      ["Amount", money(payment.amountMinor, payment)],
      ["Paid", money(payment.paidMinor, payment)],
      ["Remaining", money(remainingMinor, payment)],
      ["Overpaid", money(overpaidMinor, payment)],
      ["Refunded", money(payment.refundedMinor, payment)],
      ["Refunds under way", money(payment.refundingMinor, payment)],
      ["Description", payment.description],
      ["Webhook", payment.webhookUrl ?? "none"],
      ["Account", payment.account ?? "none"],
      ["Expires", instant(payment.expiresAt)],
    ];
    return page(
      context,
      status,
      `Payment ${payment.id}`,
      html`${problem === undefined ? "" : problemText(problem)}
<p>${flags(payment)}</p>
${mayBeSeenTo(payment, history) ? html`<form method="post" action="${base}/payments/${payment.id}/seen">${hidden(context, { attention: payment.needsAttention ?? "" })}<button>It was seen to</button></form>` : ""}
<table><tbody>${facts.map(([name, value]) => html`<tr><th scope="row">${name}</th><td>${value}</td></tr>`)}</tbody></table>
${payment.paidMinor === 0n && paymentMoves[payment.status].includes("cancelled") ? html`<form method="post" action="${base}/payments/${payment.id}/cancel">${hidden(context)}<button class="danger">Cancel payment</button></form>` : ""}
${
  isUnknown
    ? html`<form method="post" action="${base}/payments/${payment.id}/give-up">${hidden(context)}<button class="danger">Give the unknown attempt up</button></form>`
    : ""
}
${isUnknown && provider.recordMoney ? html`<form method="post" action="${base}/payments/${payment.id}/record">${hidden(context)}<label>Transaction at the provider<input name="transaction"></label><label>Its sum<input name="amount" inputmode="decimal"></label><button class="danger">Record its money</button></form>` : ""}
${leftMinor > 0n && provider?.refund ? html`<form method="post" action="${base}/payments/${payment.id}/refund">${hidden(context)}<label>Sum to refund<input name="amount" inputmode="decimal" value="${formatAmount(leftMinor)}"></label><button class="danger">Refund</button></form>` : ""}
${history.refunds
  .filter(({ status: outcome }) => outcome === "pending" && payment.needsAttention && provider?.settleRefund)
  .map(({ id, amountMinor }) =>
    (["succeeded", "failed"] as const).map(
      (outcome) =>
        html`<form method="post" action="${base}/payments/${payment.id}/settle-refund">${hidden(context, { refund: id, outcome })}<button class="danger">The refund of ${money(amountMinor, payment)} was ${outcome === "succeeded" ? "" : "not "}given back</button></form>`,
    ),
  )}
<h2>Metadata</h2><pre>${payment.metadata}</pre>
${drawAttempts(payment, attempts)}
${drawHistory(payment, history, provider)}
<h2>Webhooks</h2>${deliveries.length === 0 ? html`<p>None.</p>` : deliveries.map((delivery) => drawDelivery(context, payment, delivery, history))}`,
    );
  }

  function drawDelivery(context: AdminContext, payment: Payment, delivery: DeliveryRecord, { events }: PaymentHistory) {
    const event = events.find(({ id }) => id === delivery.eventId);
    const next = delivery.state === "pending" ? html`, next try ${instant(delivery.dueAt)}` : "";
    return html`<h3>${event?.name ?? ""} ${delivery.eventId}: ${delivery.state}${next}</h3>
<details><summary>Body</summary><pre>${event?.body ?? ""}</pre></details>
<table><thead><tr><th>Try</th><th>At</th><th>Took</th><th>Outcome</th><th>Answer</th></tr></thead><tbody>${delivery.log.map(
      (attempt) =>
        html`<tr><td>${attempt.attempt}</td><td>${instant(attempt.startedAt)}</td><td>${attempt.durationMs} ms</td><td>${attempt.outcome}</td><td>${attempt.answer ?? ""}</td></tr>`,
    )}</tbody></table>
<form method="post" action="${base}/payments/${payment.id}/resend">${hidden(context, { event: delivery.eventId })}<button>Send again</button></form>`;
  }

  function page(context: Context, status: 200 | 400 | 403 | 404 | 409 | 429, title: string, content: Html) {
    const session = context.get("session") as AdminSession | undefined;
    return context.html(
      html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>${title}</title>
<link rel="stylesheet" href="${base}/${stylesheet.path}">
</head>
<body>
${session === undefined ? "" : html`<header><a href="${base}">Payments</a><a href="${base}/health">Health</a><form method="post" action="${base}/logout">${csrfField(session)}<button>Log out</button></form></header>`}
<main><h1>${title}</h1>
${content}
</main>
</body>
</html>`,
      status,
      pageHeaders,
    );
  }

  const loginForm = (problem?: string): Html =>
    html`${problem === undefined ? "" : problemText(problem)}<form method="post" action="${base}/login"><label>Password<input type="password" name="password" autocomplete="current-password" required></label><button>Log in</button></form>`;

  return app;
}

const csrfField = ({ csrfToken }: AdminSession): Html => html`<input type="hidden" name="csrf" value="${csrfToken}">`;

const hidden = (context: AdminContext, fields: Readonly<Record<string, string>> = {}): Html =>
  html`${csrfField(context.get("session"))}${Object.entries(fields).map(
    ([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`,
  )}`;

const problemText = (text: string): Html => html`<p class="problem" role="alert">${text}</p>`;

const noUnknownAttempt = "no attempt of this payment is unknown any more";

const isAttemptUnknown = (provider: PaymentProvider, payment: Payment): boolean =>
  provider.giveUpAttempt !== undefined && provider.attempts?.(payment).at(-1)?.state === "unknown";

function drawAttempts(payment: Payment, attempts: readonly ProviderAttempt[]): Html | string {
  if (attempts.length === 0) return "";
  return html`<h2>Attempts</h2><table><thead><tr><th>Begun</th><th>State</th><th>Amount</th><th>At the provider</th><th>Reason</th></tr></thead><tbody>${attempts.map(
    ({ startedAt, state, amountMinor, ids, reason }) =>
      html`<tr><td>${instant(startedAt)}</td><td>${state}</td><td>${money(amountMinor, payment)}</td><td>${ids.join(", ")}</td><td>${reason ?? ""}</td></tr>`,
  )}</tbody></table>`;
}

function drawHistory(
  payment: Payment,
  { events, bookings, refunds }: PaymentHistory,
  provider: PaymentProvider | undefined,
): Html {
  const entries = [
    { at: payment.createdAt, text: "created" },
    ...events.map(({ createdAt, name, sequence }) => ({ at: createdAt, text: `event ${sequence}: ${name}` })),
    ...bookings.map(({ paidAt, transactionId, amountMinor }) => ({
      at: paidAt,
      text: `${money(amountMinor, payment)} booked, ${payment.provider} ${transactionId}`,
    })),
    ...refunds.map(({ updatedAt, id, amountMinor, status }) => ({
      at: updatedAt,
      text: `refund ${id} of ${money(amountMinor, payment)}: ${[status, status === "pending" ? provider?.refundNotice?.(payment, id) : undefined].filter(Boolean).join(", ")}`,
    })),
  ].sort((left, right) => left.at.getTime() - right.at.getTime());
  return html`<h2>History</h2><table><tbody>${entries.map(
    ({ at, text }) => html`<tr><td>${instant(at)}</td><td>${text}</td></tr>`,
  )}</tbody></table>`;
}

/** PostgreSQL knows no NUL characters, and nothing that was stored has other control characters. */
const searchText = (text = ""): string => text.replaceAll(/\p{Cc}/gu, "").trim();

const goTo = (context: Context, location: string, headers: Readonly<Record<string, string>> = {}): Response =>
  context.body(null, 303, { location, "cache-control": "no-store", ...headers });

/** `2026-11-23 09:30:00 UTC` */
const instant = (at: Date): string => `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;

const money = (amountMinor: bigint, { currency }: Pick<Payment, "currency">): string =>
  `${formatAmount(amountMinor)} ${currency}`;

const flags = ({ test, late, needsAttention }: Payment): Html =>
  html`${test ? html` <span class="test">test</span>` : ""}${late ? " late" : ""}${needsAttention === undefined ? "" : ` needs attention: ${needsAttention}`}`;

/** Paths and queries of receivers may hold secrets. */
const hostOf = (url: string): string => (URL.canParse(url) ? new URL(url).host : "");
