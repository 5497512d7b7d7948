import { type Context, Hono } from "hono";
import { html } from "hono/html";
import { createDocsExamples, type DocsExample } from "./docs-examples.ts";
import type { Schema } from "./openapi.ts";
import { createAsset, type Html, pageHeaders } from "./page.ts";

const stylesheet = createAsset(
  "css",
  `
:root{color-scheme:light dark;font-family:system-ui,sans-serif;line-height:1.5}
body{margin:0;background:#fff;color:#16181d}
main{max-width:56rem;margin:0 auto;padding:1.5rem 1rem}
h2{margin:2.5rem 0 .5rem;border-top:1px solid #d1d5db;padding-top:1.5rem}
h3{margin:1.5rem 0 .25rem}
code,pre,textarea,output{font-family:ui-monospace,monospace;font-size:.85rem}
pre,output{display:block;background:#f3f4f6;padding:.75rem;border-radius:.5rem;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid #e5e7eb}
form{border:1px solid #d1d5db;border-radius:.5rem;padding:.75rem;margin:.75rem 0}
label{display:block;font-size:.85rem;margin:.25rem 0}
input,textarea{display:block;box-sizing:border-box;width:100%;padding:.4rem;border:1px solid #9ca3af;border-radius:.35rem;font:inherit}
textarea{min-height:7rem}
button{margin-top:.5rem;padding:.4rem 1rem;border:1px solid #4338ca;border-radius:.35rem;background:#4338ca;color:#fff;font:inherit}
:focus-visible{outline:3px solid #f59e0b;outline-offset:2px}
.token{position:sticky;top:0;background:inherit;background:Canvas}
@media(prefers-color-scheme:dark){body{background:#111318;color:#e5e7eb}pre,output{background:#1d2027}a{color:#a5b4fc}}
`,
);

/** Sends what a form says, with the token of the page, and shows the answer as text. */
const script = createAsset(
  "js",
  `
const token = document.querySelector("#token");
for (const form of document.querySelectorAll("form[data-path]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const output = form.querySelector("output");
    output.textContent = "…";
    const query = new URLSearchParams();
    const headers = { "X-API-Token": token.value };
    let path = form.dataset.path;
    let body;
    for (const field of form.querySelectorAll("[data-in]")) {
      if (field.dataset.in === "body") body = field.value;
      else if (field.dataset.in === "path") path = path.replace("{" + field.name + "}", encodeURIComponent(field.value));
      else if (field.value !== "" && field.dataset.in === "query") query.set(field.name, field.value);
      else if (field.value !== "" && field.dataset.in === "header") headers[field.name] = field.value;
    }
    if (body !== undefined) headers["Content-Type"] = "application/json";
    try {
      const search = query.size === 0 ? "" : "?" + query;
      const answer = await fetch(path + search, { method: form.dataset.method, headers, body });
      const text = await answer.text();
      let readable = text;
      try { readable = JSON.stringify(JSON.parse(text), null, 2); } catch {}
      output.textContent = answer.status + "\\n" + readable;
    } catch {
      output.textContent = "no answer";
    }
  });
}
`,
);

interface Parameter {
  readonly name: string;
  readonly in: string;
  readonly required?: boolean;
  readonly description?: string;
}

/** The parts of an operation that the page shows. */
interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly security: readonly [{ readonly token: readonly [scope: string] }];
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly content: Content };
  readonly responses: Readonly<Record<string, { readonly description?: string; readonly $ref?: string }>>;
}
type Content = Readonly<Record<string, { readonly schema: Schema }>>;
type Properties = Readonly<Record<string, Schema>>;

interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>;
  readonly webhooks: Readonly<Record<string, { readonly post: Operation }>>;
  readonly components: {
    readonly schemas: Readonly<
      Record<string, { readonly properties?: Properties; readonly required?: readonly string[] }>
    >;
    readonly responses: Readonly<Record<string, { readonly description: string }>>;
  };
}

/** What stands in the body of a form at first. */
const firstBodies: Readonly<Record<string, string>> = {
  createPayment: JSON.stringify({ amount: "500.00", description: "Tea", metadata: { order_id: "TEST-001" } }, null, 2),
};

/** `/docs`: the API for people, with programs to copy and forms to try it. Drawn from the OpenAPI document. */
export function createDocsPage({ publicUrl, openApi }: { readonly publicUrl: string; readonly openApi: Schema }): Hono {
  const document = openApi as unknown as Document;
  const examples = createDocsExamples(publicUrl);
  const app = new Hono();

  for (const asset of [stylesheet, script]) app.get(`/docs/${asset.path}`, () => asset.answer());
  for (const { file, code } of [...examples.create, ...examples.verify]) {
    app.get(
      `/docs/examples/${file}`,
      () =>
        new Response(code, {
          headers: { "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff" },
        }),
    );
  }
  app.get("/docs/", (context) => context.redirect("../docs", 301));
  app.get("/docs", (context: Context) => context.html(page, 200, pageHeaders));

  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Payments API</title>
<link rel="stylesheet" href="docs/${stylesheet.path}">
<script type="module" src="docs/${script.path}"></script>
</head>
<body>
<main>
<h1>Payments API</h1>
<p>Create a payment, send the payer to its <code>payment_url</code>, and hear by signed webhook what became of it.
The same as OpenAPI 3.1: <a href="openapi.json">openapi.json</a>.</p>
<p class="token"><label for="token">API token for trying things on this page; it is kept nowhere</label><input id="token" type="password" autocomplete="off" spellcheck="false"></p>
<noscript><p>Trying things from this page needs JavaScript; the programs below do not.</p></noscript>
<h2 id="create">Create a payment</h2>
${examples.create.map(drawExample)}
<h2 id="verify">Receive a webhook</h2>
<p>Each program takes the <code>webhook_secret</code> of the answer above, answers 204 to a genuine webhook and 400 to any other.</p>
${examples.verify.map(drawExample)}
<h2 id="routes">Routes</h2>
${Object.entries(document.paths).map(([path, operations]) => Object.entries(operations).map(([method, operation]) => drawOperation(path, method, operation)))}
<h2 id="webhooks">Webhooks</h2>
<p>Any 2xx is taken as received, 410 ends it, everything else is repeated by a schedule.</p>
${drawParameters(document.webhooks.paid?.post.parameters ?? [])}
${Object.entries(document.webhooks).map(([event, { post }]) => html`<h3 id="webhook-${event}"><code>${event}</code></h3><p>${post.summary}</p>`)}
${drawSchema("Webhook_paid")}
</main>
</body>
</html>`;

  function drawOperation(path: string, method: string, operation: Operation): Html {
    const { operationId, summary, security, parameters = [], requestBody, responses } = operation;
    const schema = String(requestBody?.content["application/json"]?.schema.$ref ?? "")
      .split("/")
      .at(-1);
    const responseText = (status: string) =>
      responses[status]?.description ?? document.components.responses[status]?.description ?? "";
    return html`<h3 id="${operationId}"><code>${method.toUpperCase()} ${path}</code></h3>
<p>${summary}. Needs the scope <code>${security[0].token[0]}</code>.</p>
${schema ? drawSchema(schema) : ""}
<table><thead><tr><th>Answer</th><th>Means</th></tr></thead><tbody>${Object.keys(responses).map(
      (status) => html`<tr><td>${status}</td><td>${responseText(status)}</td></tr>`,
    )}</tbody></table>
<form data-method="${method.toUpperCase()}" data-path="${path.slice(1)}" aria-label="Try ${operationId}">
${parameters.map(
  (parameter) =>
    html`<label>${parameter.name}<input name="${parameter.name}" data-in="${parameter.in}" autocomplete="off"${parameter.required ? " required" : ""}></label>`,
)}
${requestBody ? html`<label>Body<textarea data-in="body" name="body" spellcheck="false">${firstBodies[operationId] ?? "{}"}</textarea></label>` : ""}
<button>Send</button>
<output aria-live="polite"></output>
</form>`;
  }

  function drawSchema(name: string): Html | string {
    const { properties = {}, required = [] } = document.components.schemas[name] ?? {};
    return html`<table><thead><tr><th>Field</th><th>Type</th><th>Meaning</th></tr></thead><tbody>${Object.entries(
      properties,
    ).map(
      ([field, schema]) =>
        html`<tr><td><code>${field}</code></td><td>${typeOf(schema)}${required.includes(field) ? ", always" : ""}</td><td>${schema.description ?? ""}</td></tr>`,
    )}</tbody></table>`;
  }

  return app;
}

function drawExample({ language, file, code }: DocsExample): Html {
  return html`<details><summary>${language}</summary><p><a href="docs/examples/${file}">${file}</a></p><pre><code>${code}</code></pre></details>`;
}

function drawParameters(parameters: readonly Parameter[]): Html {
  return html`<table><thead><tr><th>Header</th><th>Meaning</th></tr></thead><tbody>${parameters.map(
    ({ name, description }) => html`<tr><td><code>${name}</code></td><td>${description ?? ""}</td></tr>`,
  )}</tbody></table>`;
}

/** A schema in a few words. */
function typeOf(schema: Schema): string {
  if (Array.isArray(schema.enum)) return schema.enum.join(", ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (Array.isArray(schema.oneOf)) return schema.oneOf.map((one: Schema) => String(one.type)).join(" or ");
  return String(schema.format ?? schema.type ?? "");
}
