import { html } from "hono/html";
import type { ActivityDay } from "../storage.ts";
import type { Html } from "./page.ts";

interface Series {
  readonly name: string;
  /** Class of the stylesheet. */
  readonly kind: "good" | "plain" | "bad";
  of(day: ActivityDay): number;
}

const width = 640;
const height = 160;
const floor = 130;

/** Two bars for each day, as SVG without a script; the same numbers stand in a table for who cannot see it. */
export function drawChart(
  title: string,
  id: string,
  days: readonly ActivityDay[],
  series: readonly [Series, Series],
): Html {
  const top = Math.max(1, ...days.flatMap((day) => series.map(({ of }) => of(day))));
  const step = (width - 40) / Math.max(1, days.length);
  const bar = (day: ActivityDay, index: number, { of, kind, name }: Series, place: number): Html => {
    const tall = (of(day) / top) * (floor - 10);
    return html`<rect class="${kind}" x="${(40 + index * step + place * step * 0.4).toFixed(1)}" y="${(floor - tall).toFixed(1)}" width="${(step * 0.38).toFixed(1)}" height="${tall.toFixed(1)}"><title>${label(day)}: ${of(day)} ${name}</title></rect>`;
  };
  return html`<figure><figcaption id="${id}">${title}: ${series.map(({ name, kind }) => html`<span class="key ${kind}">${name}</span> `)}</figcaption>
<svg viewBox="0 0 ${width} ${height}" role="img" aria-labelledby="${id}">
<line x1="40" y1="${floor}" x2="${width}" y2="${floor}"></line>
<text x="36" y="14" text-anchor="end">${top}</text><text x="36" y="${floor}" text-anchor="end">0</text>
${days.map((day, index) => html`${bar(day, index, series[0], 0)}${bar(day, index, series[1], 1)}${index % 2 === 0 ? html`<text x="${(40 + index * step).toFixed(1)}" y="${height - 10}">${label(day)}</text>` : ""}`)}
</svg>
<details><summary>As a table</summary><table><thead><tr><th>Day</th>${series.map(({ name }) => html`<th>${name}</th>`)}</tr></thead><tbody>${days.map(
    (day) => html`<tr><td>${label(day)}</td>${series.map(({ of }) => html`<td>${of(day)}</td>`)}</tr>`,
  )}</tbody></table></details></figure>`;
}

/** `26.11` */
const label = ({ day }: ActivityDay): string => day.toISOString().slice(5, 10).split("-").reverse().join(".");
