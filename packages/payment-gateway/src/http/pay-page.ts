import { createHash } from "node:crypto";
import { type Context, Hono } from "hono";
import { getCookie, setCookie } from "hono/cookie";
import { html, raw } from "hono/html";
import { renderSVG } from "uqr";
import { formatAmount } from "../money.ts";
import { type Payment, sums } from "../payment.ts";
import type { PayerAction, PayerStep } from "../provider.ts";
import { createAsset, type Html, pageHeaders } from "./page.ts";
import { type Language, languages, negotiateLanguage, readLanguage, type Texts, texts } from "./pay-texts.ts";
import type { SurfaceOptions } from "./surface.ts";

const stylesheet = createAsset(
  "css",
  `
:root{color-scheme:light dark;font-family:system-ui,sans-serif;line-height:1.45}
body{margin:0;background:#f3f4f6;color:#16181d}
main{max-width:26rem;margin:0 auto;padding:1.5rem 1rem}
.card{background:#fff;border-radius:1rem;padding:1.5rem;box-shadow:0 1px 4px #0002}
h1{font-size:1rem;font-weight:500;margin:0;overflow-wrap:anywhere}
.amount{font-size:2.25rem;font-weight:700;margin:.25rem 0 1rem}
.state{padding:.75rem 1rem;border-radius:.75rem;background:#eef2ff}
.state[data-status=paid]{background:#dcfce7}
.state[data-status=cancelled],.state[data-status=expired]{background:#fee2e2}
form{margin:.75rem 0 0}
button,.button{display:block;width:100%;box-sizing:border-box;padding:.85rem;border:1px solid #4338ca;border-radius:.75rem;
background:#4338ca;color:#fff;font:inherit;font-weight:600;text-align:center;text-decoration:none;cursor:pointer}
button.quiet{background:transparent;color:#4338ca}
label{display:block;margin-bottom:.25rem}
input{width:100%;box-sizing:border-box;padding:.75rem;border:1px solid #9ca3af;border-radius:.75rem;font:inherit;margin-bottom:.5rem}
:focus-visible{outline:3px solid #f59e0b;outline-offset:2px}
.problem{background:#fee2e2;color:#7f1d1d;padding:.5rem 1rem;border-radius:.75rem}
figure{margin:1rem auto;max-width:16rem;text-align:center}
.test{background:#fef3c7;color:#713f12;padding:.5rem 1rem;border-radius:.75rem;margin-bottom:1rem}
nav{display:flex;gap:1rem;justify-content:center;margin-top:1rem}
.muted{color:#4b5563;font-size:.9rem}
@media(prefers-color-scheme:dark){body{background:#111318;color:#e5e7eb}.card{background:#1d2027}.state{background:#312e81}
.state[data-status=paid]{background:#14532d}.state[data-status=cancelled],.state[data-status=expired]{background:#7f1d1d}
.muted{color:#9ca3af}a,button.quiet{color:#a5b4fc}.button{color:#fff}}
`,
);

/**
 * Reads the state every two seconds while the page is seen. A change is drawn in place, so that what a screen reader is at
 * stays and the new state is announced. Counts the time down.
 */
const script = createAsset(
  "js",
  `
const card = document.querySelector("[data-card]");
const draw = async () => {
  const page = await (await fetch(location.href)).text();
  const next = new DOMParser().parseFromString(page, "text/html").querySelector("[data-card]");
  if (!next) return;
  for (const part of ["[data-status]", "[data-rest]"]) {
    const [now, then] = [card.querySelector(part), next.querySelector(part)];
    now.replaceChildren(...then.childNodes);
    Object.assign(now.dataset, then.dataset);
  }
};
const poll = async () => {
  if (document.visibilityState === "visible") {
    try {
      const path = location.pathname + "/state";
      const state = await (await fetch(path, { headers: { accept: "application/json" } })).json();
      const { status, paid, step } = card.querySelector("[data-status]").dataset;
      if (state.status !== status || state.paid !== paid || state.step !== step) await draw();
    } catch {}
  }
  setTimeout(poll, 2000);
};
const count = () => {
  const rest = card.querySelector("[data-expires]");
  if (!rest) return;
  const label = card.querySelector("[data-left]");
  label.textContent = label.dataset.left;
  const left = Math.max(0, Math.floor((Date.parse(rest.dataset.expires) - Date.now()) / 1000));
  const parts = [Math.floor(left / 3600), Math.floor(left / 60) % 60, left % 60];
  rest.textContent = parts.map((part) => String(part).padStart(2, "0")).join(":").replace(/^00:/, "");
};
if (card) {
  setTimeout(poll, 2000);
  setInterval(count, 1000);
  count();
}
`,
);

/** Which language a payer chose; nothing else is kept in a payer's browser. */
const languageCookie = "pay_language";

/** `/pay/:id`: what the payer sees. Works without JavaScript. */
export function createPayPage(
  options: Pick<SurfaceOptions, "findPayment" | "providers" | "publicUrl" | "logger">,
): Hono {
  const { findPayment, providers, logger } = options;
  const { pathname, protocol } = new URL(options.publicUrl);
  const path = `${pathname.replace(/\/+$/, "")}/pay`;
  const secure = protocol === "https:";
  const app = new Hono();

  /** A provider may be configured otherwise than when the payment was created. The page tells the payment all the same. */
  function stepOf(payment: Payment): PayerStep | undefined {
    try {
      return providers.get(payment.provider)?.payerStep(payment);
    } catch (error) {
      logger.error("what the payer does next cannot be told", {
        payment: payment.id,
        provider: payment.provider,
        error,
      });
      return undefined;
    }
  }

  for (const asset of [stylesheet, script]) app.get(`/${asset.path}`, () => asset.answer());

  app.get("/:id/state", async (context) => {
    const payment = await findPayment(context.req.param("id"));
    if (!payment) return context.json({ status: "not_found" }, 404, { "cache-control": "no-store" });
    const step = stepOf(payment);
    const state = { status: payment.status, paid: formatAmount(payment.paidMinor), step: digest(step) };
    return context.json(state, 200, { "cache-control": "no-store" });
  });

  app.get("/:id", async (context) => {
    const chosen = readLanguage(context.req.query("lang"));
    // Buttons and the bank lead back without `lang`, so the choice is remembered.
    if (chosen)
      setCookie(context, languageCookie, chosen, { path, secure, httpOnly: true, sameSite: "Lax", maxAge: 31_536_000 });
    const language =
      chosen ??
      readLanguage(getCookie(context, languageCookie)) ??
      negotiateLanguage(context.req.header("accept-language"));
    const payment = await findPayment(context.req.param("id"));
    if (!payment)
      return page(context, 404, language, texts[language].notFound, html`<h1>${texts[language].notFound}</h1>`, false);
    const step = stepOf(payment);
    const title = payment.description || texts[language].title;
    // Without JavaScript the page asks again by itself, but never under the hands of somebody who types.
    const types = step?.kind === "actions" && step.actions.some((action) => action.withAmount || action.withPhone);
    const waits = !types && (isOpen(payment) || payment.status === "partially_paid");
    const problem = context.req.query("problem");
    return page(context, 200, language, title, card(payment, step, language, problem), waits);
  });

  function page(context: Context, status: 200 | 404, language: Language, title: string, content: Html, waits: boolean) {
    return context.html(
      html`<!doctype html>
<html lang="${language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>${title}</title>
<link rel="stylesheet" href="${stylesheet.path}">
<script type="module" src="${script.path}"></script>
${waits ? html`<noscript><meta http-equiv="refresh" content="10"></noscript>` : ""}
</head>
<body>
<main>
<div class="card" data-card>${content}</div>
<nav aria-label="${texts[language].language}">${languages.map(
        (other) => html`<a href="?lang=${other}" hreflang="${other}" lang="${other}">${texts[other].ownName}</a> `,
      )}</nav>
</main>
</body>
</html>`,
      status,
      pageHeaders,
    );
  }

  function card(payment: Payment, step: PayerStep | undefined, language: Language, problem: string | undefined): Html {
    const words = texts[language];
    const expires = payment.expiresAt.toISOString();
    return html`${payment.test ? html`<p class="test">${words.test}</p>` : ""}
<h1>${payment.description || words.title}</h1>
<p class="amount">${readableAmount(payment.amountMinor, payment.currency)}</p>
<div class="state" role="status" aria-live="polite" data-status="${payment.status}" data-paid="${formatAmount(payment.paidMinor)}" data-step="${digest(step)}">
${words.status[payment.status]}${paidLine(payment, words)}
</div>
<div data-rest>
${problem === "attempt" || problem === "phone" ? html`<p class="problem" role="alert">${words.problem[problem]}</p>` : ""}
${isOpen(payment) ? html`<p class="muted"><span data-left="${words.left}">${words.expires}</span> <time datetime="${expires}" data-expires="${expires}">${localTime(payment)}</time></p>` : ""}
${isOpen(payment) || payment.status === "partially_paid" ? html`<noscript><p><a href="?lang=${language}">${words.refresh}</a></p></noscript>` : ""}
${step ? drawStep(payment, step, words) : ""}
${payment.returnUrl === undefined ? "" : html`<p><a href="${payment.returnUrl}" rel="noreferrer">${words.back}</a></p>`}
</div>`;
  }

  function drawStep(payment: Payment, step: PayerStep, words: Texts): Html | string {
    const target = `../providers/${payment.provider}/${payment.id}`;
    if (step.kind === "actions") return html`${step.actions.map((action) => actionForm(action, target, words))}`;
    if (step.kind === "notice") {
      return html`<p>${words.notice[step.notice]}</p>${step.actions.map((action) => actionForm(action, target, words))}`;
    }
    if (!isOpen(payment) && payment.status !== "partially_paid") return "";
    if (step.kind === "account") return html`<p>${words.account} <strong>${step.account}</strong></p>`;
    return html`${step.scan === undefined ? "" : drawQr(step.scan, words)}
<p><a class="button" href="${step.url}" rel="noreferrer">${words.open}</a></p>`;
  }

  return app;
}

const isOpen = ({ status }: Payment): boolean => status === "pending" || status === "processing";

/** Tells two steps apart without telling what is in them. */
const digest = (step: PayerStep | undefined): string =>
  createHash("sha256")
    .update(JSON.stringify(step ?? ""))
    .digest("base64url")
    .slice(0, 8);

/** For those without JavaScript, in the time of the currency's country: `27.11.2026 14:30 UTC+5`. */
function localTime({ expiresAt, currency }: Payment): string {
  const hours = { KZT: 5, RUB: 3 }[currency as string] ?? 0;
  const [date = "", time = ""] = new Date(expiresAt.getTime() + hours * 3_600_000).toISOString().split("T");
  return `${date.split("-").reverse().join(".")} ${time.slice(0, 5)} UTC${hours === 0 ? "" : `+${hours}`}`;
}

/** Black on white in dark mode too, with the quiet zone of four modules that scanners expect. */
const drawQr = (content: string, words: Texts): Html =>
  html`<figure><div aria-hidden="true">${raw(renderSVG(content, { border: 4, ecc: "M" }))}</div><figcaption class="muted">${words.scan}</figcaption></figure>`;

function actionForm({ action, withAmount, withPhone }: PayerAction, target: string, words: Texts): Html {
  const inputId = `input-${action}`;
  const amount = html`<label for="${inputId}">${words.amount}</label><input id="${inputId}" name="amount" inputmode="decimal" required pattern="[0-9]+([.,][0-9]{1,2})?">`;
  const phone = html`<label for="${inputId}">${words.phone}</label><input id="${inputId}" name="phone" type="tel" autocomplete="tel-national" required minlength="10" maxlength="20">`;
  return html`<form method="post" action="${target}">
<input type="hidden" name="action" value="${action}">
${withAmount ? amount : ""}${withPhone ? phone : ""}
<button class="${action === "pay" ? "primary" : "quiet"}">${words.action[action]}</button>
</form>`;
}

function paidLine(payment: Payment, words: Texts): Html | string {
  const { remainingMinor, overpaidMinor } = sums(payment);
  if (payment.status === "partially_paid") {
    return html`<br>${words.remaining} ${readableAmount(remainingMinor, payment.currency)}`;
  }
  return overpaidMinor > 0n ? html`<br>${words.overpaid} ${readableAmount(overpaidMinor, payment.currency)}` : "";
}

const signs: Readonly<Record<string, string>> = { KZT: "₸", RUB: "₽", USD: "$", EUR: "€" };

/** `5 000,00 ₸`, the way all three languages write it; spaces do not break. */
function readableAmount(amountMinor: bigint, currency: string): string {
  const [whole = "", decimals = ""] = formatAmount(amountMinor).split(".");
  const grouped = whole.replace(/\B(?=(\d{3})+$)/g, "\u00a0");
  return `${grouped},${decimals}\u00a0${signs[currency] ?? currency}`;
}
