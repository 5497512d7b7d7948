import { type Context, Hono } from "hono";
import { html } from "hono/html";
import { formatAmount } from "../money.ts";
import { type Payment, sums } from "../payment.ts";
import type { PayerAction, PayerStep } from "../provider.ts";
import { createAsset, type Html, pageHeaders } from "./page.ts";
import { type Language, languages, negotiateLanguage, type Texts, texts } from "./pay-texts.ts";
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
.test{background:#fef3c7;color:#713f12;padding:.5rem 1rem;border-radius:.75rem;margin-bottom:1rem}
nav{display:flex;gap:1rem;justify-content:center;margin-top:1rem}
.muted{color:#4b5563;font-size:.9rem}
@media(prefers-color-scheme:dark){body{background:#111318;color:#e5e7eb}.card{background:#1d2027}.state{background:#312e81}
.state[data-status=paid]{background:#14532d}.state[data-status=cancelled],.state[data-status=expired]{background:#7f1d1d}
.muted{color:#9ca3af}a,button.quiet{color:#a5b4fc}.button{color:#fff}}
`,
);

/** Reads the state every two seconds and shows a change at once; without it the page reloads itself. */
const script = createAsset(
  "js",
  `
const box = document.querySelector("[data-status]");
const rest = document.querySelector("[data-expires]");
const poll = async () => {
  if (document.visibilityState === "visible") {
    try {
      const answer = await fetch(location.pathname + "/state", { headers: { accept: "application/json" } });
      const state = await answer.json();
      if (state.status !== box.dataset.status || state.paid !== box.dataset.paid) return location.reload();
    } catch {}
  }
  setTimeout(poll, 2000);
};
if (box) setTimeout(poll, 2000);
if (rest) setInterval(() => {
  const left = Math.max(0, Math.floor((Date.parse(rest.dataset.expires) - Date.now()) / 1000));
  rest.textContent = Math.floor(left / 60) + ":" + String(left % 60).padStart(2, "0");
}, 1000);
`,
);

/** `/pay/:id`: what the payer sees. Works without JavaScript. */
export function createPayPage(options: Pick<SurfaceOptions, "findPayment" | "providers">): Hono {
  const { findPayment, providers } = options;
  const app = new Hono();

  for (const asset of [stylesheet, script]) app.get(`/${asset.path}`, () => asset.answer());

  app.get("/:id/state", async (context) => {
    const payment = await findPayment(context.req.param("id"));
    if (!payment) return context.json({ status: "not_found" }, 404, { "cache-control": "no-store" });
    return context.json({ status: payment.status, paid: formatAmount(payment.paidMinor) }, 200, {
      "cache-control": "no-store",
    });
  });

  app.get("/:id", async (context) => {
    const language = negotiateLanguage(context.req.query("lang"), context.req.header("accept-language"));
    const payment = await findPayment(context.req.param("id"));
    if (!payment)
      return page(context, 404, language, texts[language].notFound, html`<p>${texts[language].notFound}</p>`);
    const step = providers.get(payment.provider)?.payerStep(payment);
    return page(context, 200, language, payment.description || texts[language].title, card(payment, step, language));
  });

  function page(context: Context, status: 200 | 404, language: Language, title: string, content: Html) {
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
</head>
<body>
<main>
<div class="card">${content}</div>
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

  function card(payment: Payment, step: PayerStep | undefined, language: Language): Html {
    const words = texts[language];
    const isOpen = payment.status === "pending" || payment.status === "processing";
    return html`${payment.test ? html`<p class="test">${words.test}</p>` : ""}
<h1>${payment.description || words.title}</h1>
<p class="amount">${readableAmount(payment.amountMinor, payment.currency)}</p>
<div class="state" role="status" aria-live="polite" data-status="${payment.status}" data-paid="${formatAmount(payment.paidMinor)}">
${words.status[payment.status]}${paidLine(payment, words)}
</div>
${isOpen ? html`<p class="muted">${words.expires} <time datetime="${payment.expiresAt.toISOString()}" data-expires="${payment.expiresAt.toISOString()}">${payment.expiresAt.toISOString().slice(11, 16)} UTC</time></p>` : ""}
${isOpen || payment.status === "partially_paid" ? html`<noscript><p><a href="?lang=${language}">${words.refresh}</a></p></noscript>` : ""}
${step ? drawStep(payment, step, words, isOpen) : ""}
${payment.returnUrl === undefined ? "" : html`<p><a href="${payment.returnUrl}" rel="noreferrer">${words.back}</a></p>`}`;
  }

  function drawStep(payment: Payment, step: PayerStep, words: Texts, isOpen: boolean): Html | string {
    if (step.kind === "actions") {
      const target = `../providers/${payment.provider}/${payment.id}`;
      return html`${step.actions.map((action) => actionForm(action, target, words))}`;
    }
    if (!isOpen && payment.status !== "partially_paid") return "";
    return step.kind === "link"
      ? html`<p><a class="button" href="${step.url}" rel="noreferrer">${words.action.pay}</a></p>`
      : html`<p>${words.account} <strong>${step.account}</strong></p>`;
  }

  return app;
}

function actionForm({ action, withAmount }: PayerAction, target: string, words: Texts): Html {
  const inputId = `amount-${action}`;
  return html`<form method="post" action="${target}">
<input type="hidden" name="action" value="${action}">
${withAmount ? html`<label for="${inputId}">${words.amount}</label><input id="${inputId}" name="amount" inputmode="decimal" required pattern="[0-9]+([.,][0-9]{1,2})?">` : ""}
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
