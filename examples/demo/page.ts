import type { FetchHandler } from "@orderbridge/core";
import { html } from "hono/html";
import type { Board, FlowView } from "./board.ts";

const flowCard = (flow: FlowView) => html`<section data-flow="${flow.id}" data-state="${flow.state}">
  <h2><span class="number">${flow.id}</span> ${flow.title} <span class="state">${flow.state}</span></h2>
  <p>${flow.explains}</p>
  <dl>${Object.entries(flow.figures).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
  <ol>${flow.log.map(({ at, text }) => html`<li><time>${at}</time> ${text}</li>`)}</ol>
</section>`;

const page = (flows: readonly FlowView[]) => html`<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Orderbridge: orders, statuses and payments that agree</title>
  <link rel="stylesheet" href="/page.css">
  <script src="/page.js" defer></script>
</head>
<body>
  <header>
    <h1>Orderbridge</h1>
    <p>Six flows between fake vendors and the real reference servers, live on this machine. The figures are read from the fake vendors.</p>
  </header>
  <main>${flows.map(flowCard)}</main>
</body>
</html>`;

const css = `
:root { color-scheme: light dark; --line: #8884; --ok: #1a7f37; --bad: #cf222e; --busy: #9a6700 }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem; font: 15px/1.5 system-ui, sans-serif }
h1 { margin: 0 }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(23rem, 100%), 1fr)) }
section { border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.1rem; min-width: 0 }
h2 { font-size: 1.02rem; margin: 0 0 .3rem; display: flex; gap: .5rem; align-items: baseline }
.number { font-variant-numeric: tabular-nums; opacity: .6 }
.state { margin-left: auto; font-size: .78rem; padding: .05rem .5rem; border: 1px solid var(--line); border-radius: 1rem }
[data-state=passed] .state { color: var(--ok); border-color: currentColor }
[data-state=failed] .state { color: var(--bad); border-color: currentColor }
[data-state=running] .state { color: var(--busy); border-color: currentColor }
p { margin: 0 0 .7rem }
dl { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: 0 0 .7rem }
dl div { display: flex; flex-direction: column }
dt { font-size: .75rem; opacity: .7 }
dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums }
ol { list-style: none; margin: 0; padding: .6rem 0 0; border-top: 1px solid var(--line); font-size: .85rem; min-height: 5rem }
li { overflow-wrap: anywhere }
time { opacity: .6; font-variant-numeric: tabular-nums; margin-right: .3rem }
`;

// The browser takes the finished sections; everything in them was escaped on the server.
const script = `
new EventSource("/events").onmessage = ({ data }) => {
  const next = new DOMParser().parseFromString(data, "text/html");
  for (const section of next.querySelectorAll("section")) {
    const old = document.querySelector('section[data-flow="' + section.dataset.flow + '"]');
    if (old && old.outerHTML !== section.outerHTML) old.replaceWith(section);
  }
};
`;

const headers = (type: string): Record<string, string> => ({
  "content-type": type,
  "content-security-policy":
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-store",
});

/** The page, its two files, and a stream of its sections after every change (at most ten times a second). */
export function createPage(board: Board): FetchHandler {
  const sections = () =>
    board
      .snapshot()
      .map((flow) => String(flowCard(flow)).replaceAll("\n", " "))
      .join("");

  function stream(signal: AbortSignal): ReadableStream<Uint8Array> {
    const encoder = new TextEncoder();
    let end = () => {};
    return new ReadableStream({
      start(controller) {
        let timer: NodeJS.Timeout | undefined;
        const push = () => {
          timer = undefined;
          controller.enqueue(encoder.encode(`data: ${sections()}\n\n`));
        };
        const unsubscribe = board.subscribe(() => {
          timer ??= setTimeout(push, 100);
        });
        end = () => {
          unsubscribe();
          clearTimeout(timer);
        };
        signal.addEventListener("abort", end, { once: true });
        push();
      },
      cancel: () => end(),
    });
  }

  return async (request) => {
    if (request.method !== "GET" && request.method !== "HEAD")
      return new Response(null, { status: 405, headers: { allow: "GET, HEAD" } });
    switch (new URL(request.url).pathname) {
      case "/":
        return new Response(String(page(board.snapshot())), { headers: headers("text/html; charset=utf-8") });
      case "/page.css":
        return new Response(css, { headers: headers("text/css; charset=utf-8") });
      case "/page.js":
        return new Response(script, { headers: headers("text/javascript; charset=utf-8") });
      case "/events":
        return new Response(stream(request.signal), { headers: headers("text/event-stream") });
      case "/flows.json":
        return new Response(JSON.stringify(board.snapshot()), { headers: headers("application/json") });
      default:
        return new Response("not found", { status: 404, headers: headers("text/plain") });
    }
  };
}
