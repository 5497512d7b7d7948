import { createStatusMapper } from "@orderbridge/core";

/** Order statuses of the shop on a 1C-Bitrix site, and ours. A cancelled order goes back as `UN`. */
export const bitrixOrderStatuses = createStatusMapper({
  pairs: [
    ["N", "new"],
    ["PD", "paid"],
    ["AP", "accepted"],
    ["CO", "in_production"],
    ["DE", "in_delivery"],
    ["F", "delivered"],
    ["RF", "cancelled"],
    ["UN", "cancelled"],
  ],
  back: { cancelled: "UN" },
});
