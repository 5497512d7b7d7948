import type { PaymentStatus } from "../payment.ts";
import type { PayerAction, PayerNotice } from "../provider.ts";

export const languages = ["ru", "kk", "en"] as const;

export type Language = (typeof languages)[number];

export interface Texts {
  readonly ownName: string;
  readonly language: string;
  readonly title: string;
  readonly notFound: string;
  readonly test: string;
  readonly expires: string;
  /** Before the time that runs down. */
  readonly left: string;
  readonly refresh: string;
  readonly remaining: string;
  readonly overpaid: string;
  readonly back: string;
  readonly account: string;
  readonly amount: string;
  readonly phone: string;
  readonly open: string;
  /** Beside a QR. */
  readonly scan: string;
  /** What went wrong with the button that was pressed. */
  readonly problem: Readonly<Record<"attempt" | "phone", string>>;
  readonly notice: Readonly<Record<PayerNotice, string>>;
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
    left: "Осталось времени:",
    refresh: "Обновить",
    remaining: "Осталось оплатить:",
    overpaid: "Переплата:",
    back: "Вернуться в магазин",
    account: "Введите в приложении номер:",
    amount: "Сумма",
    phone: "Телефон, к которому привязан Kaspi.kz",
    open: "Открыть страницу оплаты",
    scan: "Наведите на код камеру телефона",
    problem: {
      attempt: "Не получилось начать оплату. Деньги не списаны, попробуйте ещё раз.",
      phone: "Проверьте номер телефона: нужен номер Казахстана.",
    },
    notice: {
      terminal: "Оплатите на терминале: приложите карту или отсканируйте QR на его экране.",
      invoice: "Счёт отправлен. Откройте приложение Kaspi.kz и подтвердите его.",
      unknown: "Мы выясняем, прошла ли оплата. Не платите второй раз: страница обновится, когда ответ придёт.",
      delayed: "Деньги в пути.",
    },
    status: {
      pending: "Ожидает оплаты",
      processing: "Платёж обрабатывается",
      partially_paid: "Оплачено частично",
      paid: "Оплачено. Спасибо!",
      cancelled: "Платёж отменён",
      expired: "Срок оплаты истёк",
      refunded: "Деньги возвращены",
    },
    action: {
      pay: "Оплатить",
      pay_part: "Оплатить сумму",
      cancel: "Отменить",
      fail: "Сообщить о неудаче",
      delay: "Оплатить с задержкой",
      invoice: "Прислать счёт на телефон",
      check: "Проверить оплату",
    },
  },
  kk: {
    ownName: "Қазақша",
    language: "Тіл",
    title: "Төлем",
    notFound: "Мұндай төлем жоқ.",
    test: "Сынақ төлемі: ақша алынбайды.",
    expires: "Төлеу мерзімі:",
    left: "Қалған уақыт:",
    refresh: "Жаңарту",
    remaining: "Төлеуге қалды:",
    overpaid: "Артық төленді:",
    back: "Дүкенге оралу",
    account: "Қолданбада мына нөмірді енгізіңіз:",
    amount: "Сома",
    phone: "Kaspi.kz тіркелген телефон",
    open: "Төлем бетін ашу",
    scan: "Телефон камерасын кодқа бағыттаңыз",
    problem: {
      attempt: "Төлемді бастау мүмкін болмады. Ақша алынған жоқ, қайталап көріңіз.",
      phone: "Телефон нөмірін тексеріңіз: Қазақстан нөмірі керек.",
    },
    notice: {
      terminal: "Терминалда төлеңіз: картаны жақындатыңыз немесе экрандағы QR кодты сканерлеңіз.",
      invoice: "Шот жіберілді. Kaspi.kz қолданбасын ашып, оны растаңыз.",
      unknown: "Төлем өткен-өтпегенін анықтап жатырмыз. Екінші рет төлемеңіз: жауап келгенде бет жаңарады.",
      delayed: "Ақша жолда.",
    },
    status: {
      pending: "Төлем күтілуде",
      processing: "Төлем өңделуде",
      partially_paid: "Ішінара төленді",
      paid: "Төленді. Рақмет!",
      cancelled: "Төлем тоқтатылды",
      expired: "Төлем мерзімі өтті",
      refunded: "Ақша қайтарылды",
    },
    action: {
      pay: "Төлеу",
      pay_part: "Соманы төлеу",
      cancel: "Бас тарту",
      fail: "Сәтсіздік туралы хабарлау",
      delay: "Кідіріспен төлеу",
      invoice: "Шотты телефонға жіберу",
      check: "Төлемді тексеру",
    },
  },
  en: {
    ownName: "English",
    language: "Language",
    title: "Payment",
    notFound: "There is no such payment.",
    test: "Test payment: no money is taken.",
    expires: "Pay before",
    left: "Time left:",
    refresh: "Refresh",
    remaining: "Left to pay:",
    overpaid: "Overpaid:",
    back: "Back to the shop",
    account: "Type this number in the application:",
    amount: "Amount",
    phone: "Phone that Kaspi.kz is registered on",
    open: "Open the payment page",
    scan: "Point the camera of your phone at the code",
    problem: {
      attempt: "The payment could not begin. No money was taken; try again.",
      phone: "Check the phone: a number of Kazakhstan is needed.",
    },
    notice: {
      terminal: "Pay at the terminal: hold your card to it, or scan the QR on its screen.",
      invoice: "The invoice was sent. Open the Kaspi.kz application and confirm it.",
      unknown: "We are finding out whether the payment went through. Do not pay again: this page changes once we know.",
      delayed: "The money is on its way.",
    },
    status: {
      pending: "Waiting for payment",
      processing: "The payment is being processed",
      partially_paid: "Partly paid",
      paid: "Paid. Thank you!",
      cancelled: "The payment was cancelled",
      expired: "The payment has expired",
      refunded: "The money was returned",
    },
    action: {
      pay: "Pay",
      pay_part: "Pay this sum",
      cancel: "Cancel",
      fail: "Report a failure",
      delay: "Pay with a delay",
      invoice: "Send an invoice to my phone",
      check: "Check the payment",
    },
  },
};

/** `undefined` for a language that we do not speak. */
export const readLanguage = (tag: string | undefined): Language | undefined =>
  languages.find((language) => language === tag);

/** The first known language that the browser prefers, else Russian. */
export function negotiateLanguage(acceptLanguage: string | undefined): Language {
  const preferred = (acceptLanguage ?? "")
    .split(",")
    .map((entry) => {
      const [tag = "", ...parameters] = entry.trim().toLowerCase().split(";");
      const quality = parameters.map((parameter) => /^\s*q=([\d.]+)$/.exec(parameter)?.[1]).find(Boolean);
      return { language: readLanguage(tag.split("-")[0]), quality: quality === undefined ? 1 : Number(quality) };
    })
    .filter(({ language, quality }) => language !== undefined && quality > 0)
    .sort((left, right) => right.quality - left.quality);
  return preferred[0]?.language ?? "ru";
}
