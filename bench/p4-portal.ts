// A portal in a process of its own, so that its work is not counted as a client's: p4-portal.ts <settings as JSON>.
import { createFakeBitrix } from "@orderbridge/bitrix/testing";
import { listen } from "@orderbridge/core/testing";
import { createFastClock } from "./p4-clock.ts";

export interface PortalSettings {
  readonly deals: number;
  /** What a page costs, in seconds. */
  readonly pageCost: number;
  readonly speed: number;
  /** Seconds of running time in ten minutes. */
  readonly operatingLimit: number;
  /** Whether 20 deals are added and 20 deleted in each second. */
  readonly edits: boolean;
  /** Whether the burst was used up before. */
  readonly drained: boolean;
}

export interface PortalReport {
  readonly refusedForRate: number;
  readonly refusedForTime: number;
  readonly requests: number;
  /** Most running time of the list method that counted at one moment, in seconds. */
  readonly mostOperating: number;
  /** Ids of the deals that were there from the beginning to the end. */
  readonly kept: readonly number[];
}

const settings: PortalSettings = JSON.parse(process.argv[2] ?? "{}");
const clock = createFastClock(settings.speed);
const costs = { "crm.item.list": settings.pageCost, "crm.deal.list": settings.pageCost, profile: 0 };
const portal = createFakeBitrix({ clock, costs, takesTime: true, operatingLimitSeconds: settings.operatingLimit });
const kept = new Set<number>();
for (let index = 0; index < settings.deals; index++) kept.add(portal.addDeal({ title: `Заказ ${index}` }).id);
const server = await listen(portal.handle);
if (settings.drained) {
  for (let index = 0; index < 45; index++) {
    await portal.handle(new Request(`${portal.webhookUrl("http://portal.invalid")}profile`));
  }
}

let mostOperating = 0;
setInterval(() => {
  mostOperating = Math.max(mostOperating, portal.operatingOf("crm.item.list"));
}, 20).unref();
if (settings.edits) {
  let turn = 0;
  const doomed = [...kept].filter((_, index) => index % 10 === 7);
  setInterval(() => {
    portal.addDeal({ title: "Новый" });
    const [id] = doomed.splice((turn++ * 7919) % doomed.length, 1);
    if (id === undefined) return;
    kept.delete(id);
    portal.deleteDeal(id);
  }, 50).unref();
}

process.on("message", () => {
  const report: PortalReport = {
    refusedForRate: portal.refusals.rate,
    refusedForTime: portal.refusals.operating,
    requests: portal.journal.entries.length,
    mostOperating,
    kept: [...kept],
  };
  process.send?.(report);
});
process.send?.(portal.webhookUrl(server.url));
