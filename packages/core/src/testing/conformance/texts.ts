/** Keys that a careless database takes for one: by case, by trailing space, by е and ё, by Unicode form. */
export const similarKeys = [
  "order-a",
  "order-A",
  "order-a ",
  "заказ-е",
  "заказ-ё",
  "заказ-е\u0308",
  "order-а",
] as const;

/** 191 characters, each outside the Basic Multilingual Plane: 764 bytes. */
export const longestKey = "😀".repeat(191);

/** Each is refused by every adapter with an error that names the field. */
export const refusedKeys = ["", "k".repeat(192), "nul\0", "half\uD83D"] as const;

/** 400 kB with quotes, backslashes, line ends and characters of one to four bytes. */
export const bigText = "Қ'\"\\\r\n\t€😀%_ ".repeat(20_000);
