/** Pages of the fake, for a person with a browser. */

/** Takes the meaning of markup from text; it fits XML as well. */
export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

const page = (title: string, body: string): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(title)}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; background: #f3f4f6; color: #111827; }
main { max-width: 26rem; margin: 10vh auto; padding: 2rem; background: #fff; border-radius: 12px; box-shadow: 0 1px 4px #0002; }
h1 { font-size: 1.1rem; margin: 0 0 1rem; }
.sum { font-size: 2rem; font-weight: 600; margin: 0; }
.note { color: #4b5563; }
.test { background: #fef3c7; padding: .25rem .5rem; border-radius: 6px; }
button { font: inherit; padding: .7rem 1.2rem; border: 0; border-radius: 8px; cursor: pointer; }
button[value=pay] { background: #1d4ed8; color: #fff; }
</style>
</head>
<body><main>${body}</main></body>
</html>`;

const html = (text: string, status = 200): Response =>
  new Response(text, { status, headers: { "content-type": "text/html; charset=utf-8" } });

export function paymentPage(payment: {
  readonly action: string;
  readonly shop: string;
  readonly outSum: string;
  readonly invId: string;
  readonly description: string;
  readonly test: boolean;
  readonly hold: boolean;
}): Response {
  return html(
    page(
      "Payment",
      `<h1>${escapeHtml(payment.shop)} (fake Robokassa)</h1>
<p class="sum">${escapeHtml(payment.outSum)}</p>
<p class="note">Order ${escapeHtml(payment.invId)}. ${escapeHtml(payment.description)}</p>
${payment.test ? '<p class="test">Test mode: no money moves</p>' : ""}
<form method="post" action="${escapeHtml(payment.action)}">
<button name="action" value="pay">${payment.hold ? "Reserve" : "Pay"}</button>
<button name="action" value="refuse">Refuse</button>
</form>`,
    ),
  );
}

export function errorPage(code: number, text: string): Response {
  return html(page(`Error ${code}`, `<h1>Error ${code}</h1><p data-error-code="${code}">${escapeHtml(text)}</p>`));
}

export function donePage(text: string): Response {
  return html(page("Done", `<h1>${escapeHtml(text)}</h1>`));
}
