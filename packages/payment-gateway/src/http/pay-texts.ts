import type { PaymentStatus } from "../payment.ts";
import type { PayerAction } from "../provider.ts";

export const languages = ["ru", "kk", "en"] as const;

export type Language = (typeof languages)[number];

export interface Texts {
  readonly ownName: string;
  readonly language: string;
  readonly title: string;
  readonly notFound: string;
  readonly test: string;
  readonly expires: string;
  readonly refresh: string;
  readonly remaining: string;
  readonly overpaid: string;
  readonly back: string;
  readonly account: string;
  readonly amount: string;
  readonly status: Readonly<Record<PaymentStatus, string>>;
  readonly action: Readonly<Record<PayerAction["action"], string>>;
}

export const texts: Readonly<Record<Language, Texts>> = {
  ru: {
    ownName: "Русский",
    language: "Язык",
    title: "Оплата",
    notFound: "Такого платежа нет.",
    test: "Тестовый платёж: деньги не списываются.",
    expires: "Оплатите до",
    refresh: "Обновить",
    remaining: "Осталось оплатить:",
    overpaid: "Переплата:",
    back: "Вернуться в магазин",
    account: "Введите в приложении номер:",
    amount: "Сумма",
    status: {
      pending: "Ожидает оплаты",
      processing: "Платёж обрабатывается",
      partially_paid: "Оплачено частично",
      paid: "Оплачено. Спасибо!",
      cancelled: "Платёж отменён",
      expired: "Срок оплаты истёк",
      refunded: "Деньги возвращены",
    },
    action: { pay: "Оплатить", pay_part: "Оплатить сумму", cancel: "Отменить", fail: "Сообщить о неудаче" },
  },
  kk: {
    ownName: "Қазақша",
    language: "Тіл",
    title: "Төлем",
    notFound: "Мұндай төлем жоқ.",
    test: "Сынақ төлемі: ақша алынбайды.",
    expires: "Төлеу мерзімі:",
    refresh: "Жаңарту",
    remaining: "Төлеуге қалды:",
    overpaid: "Артық төленді:",
    back: "Дүкенге оралу",
    account: "Қолданбада мына нөмірді енгізіңіз:",
    amount: "Сома",
    status: {
      pending: "Төлем күтілуде",
      processing: "Төлем өңделуде",
      partially_paid: "Ішінара төленді",
      paid: "Төленді. Рақмет!",
      cancelled: "Төлем тоқтатылды",
      expired: "Төлем мерзімі өтті",
      refunded: "Ақша қайтарылды",
    },
    action: { pay: "Төлеу", pay_part: "Соманы төлеу", cancel: "Бас тарту", fail: "Сәтсіздік туралы хабарлау" },
  },
  en: {
    ownName: "English",
    language: "Language",
    title: "Payment",
    notFound: "There is no such payment.",
    test: "Test payment: no money is taken.",
    expires: "Pay before",
    refresh: "Refresh",
    remaining: "Left to pay:",
    overpaid: "Overpaid:",
    back: "Back to the shop",
    account: "Type this number in the application:",
    amount: "Amount",
    status: {
      pending: "Waiting for payment",
      processing: "The payment is being processed",
      partially_paid: "Partly paid",
      paid: "Paid. Thank you!",
      cancelled: "The payment was cancelled",
      expired: "The payment has expired",
      refunded: "The money was returned",
    },
    action: { pay: "Pay", pay_part: "Pay this sum", cancel: "Cancel", fail: "Report a failure" },
  },
};

/** The language that the payer chose, else the first known one that the browser prefers, else Russian. */
export function negotiateLanguage(chosen: string | undefined, acceptLanguage: string | undefined): Language {
  const known = (tag: string): Language | undefined => languages.find((language) => language === tag);
  const direct = known(chosen ?? "");
  if (direct) return direct;
  const preferred = (acceptLanguage ?? "")
    .split(",")
    .map((entry) => {
      const [tag = "", ...parameters] = entry.trim().toLowerCase().split(";");
      const quality = parameters.map((parameter) => /^\s*q=([\d.]+)$/.exec(parameter)?.[1]).find(Boolean);
      return { language: known(tag.split("-")[0] ?? ""), quality: quality === undefined ? 1 : Number(quality) };
    })
    .filter(({ language, quality }) => language !== undefined && quality > 0)
    .sort((left, right) => right.quality - left.quality);
  return preferred[0]?.language ?? "ru";
}
