import type { Currency } from "./money.ts";
import type { Payment } from "./payment.ts";

/** What the payer does next; the pay page draws it. */
export type PayerStep =
  /** `scan`: what the page also draws as a QR, for a phone beside the screen. */
  | { readonly kind: "link"; readonly url: string; readonly scan?: string }
  /** The payer must do something elsewhere; `actions` are buttons as below. */
  | { readonly kind: "notice"; readonly notice: PayerNotice; readonly actions: readonly PayerAction[] }
  /** Digits or text that the payer types in the provider's own application. */
  | { readonly kind: "account"; readonly account: string }
  /** Buttons of a form that the page posts to the provider's callback as `action`. */
  | { readonly kind: "actions"; readonly actions: readonly PayerAction[] };

/** Money that was booked before. */
export interface BookedMoney {
  readonly paymentId: string;
  readonly amountMinor: bigint;
}

/**
 * `terminal`: pay at the terminal; `invoice`: confirm the invoice in the bank's application; `unknown`: nobody knows yet
 * whether the last attempt took money; `delayed`: the money is on its way.
 */
export type PayerNotice = "terminal" | "invoice" | "unknown" | "delayed";

export interface PayerAction {
  readonly action: "pay" | "pay_part" | "cancel" | "fail" | "delay" | "invoice" | "check";
  /** Whether the payer may name an amount. */
  readonly withAmount: boolean;
  /** Whether the payer names the phone that gets the invoice. @defaultValue false */
  readonly withPhone?: boolean;
}

/** One try of a payer at the provider, as a person sees it. */
export interface ProviderAttempt {
  readonly startedAt: Date;
  readonly state: "starting" | "open" | "unknown" | "paid" | "failed";
  readonly amountMinor: bigint;
  /** The provider's ids: what to look for in its cabinet. */
  readonly ids: readonly string[];
  /** Why it failed, or what is not known. */
  readonly reason?: string;
}

/** What a provider stores of its side, in one change. */
export interface RememberedState {
  /** The provider's own text. */
  readonly session: string;
  /** When `state` is asked, in milliseconds. Left out: the time that was set before stays. */
  readonly askAgainMs?: number;
  /** Whether the payer has an attempt open; only an unpaid payment shows it. Left out: as before. */
  readonly processing?: boolean;
  /** Why a person must look at it; `null` takes it back. Left out: as before. */
  readonly attention?: string | null;
  /**
   * Money that this tells of: booked in the same transaction, so that a session never says `paid` of money that is not
   * here. Of money that was booked before nothing is stored, `remember` then resolves to `undefined`.
   */
  readonly money?: ReportedMoney;
}

/** When the engine asks again. */
export interface NextLook {
  /**
   * Pause before the next question, in milliseconds; also for a payment that has ended, while its QR lives on: from an hour
   * after its end it is asked ever more rarely, at last once a day. Left out: what `remember` said meanwhile, else not before
   * the payment expires.
   */
  readonly askAgainMs?: number;
}

export type ProviderState =
  | ({ readonly state: "waiting" } & NextLook)
  /** The payer has begun: the payment is shown as `processing`. */
  | ({ readonly state: "processing" } & NextLook)
  /** This attempt failed and no money will come of it; the payment waits for the next one. */
  | ({ readonly state: "ended" } & NextLook)
  /** The remote invoice was cancelled, which ends the payment. */
  | { readonly state: "cancelled" }
  | { readonly state: "paid"; readonly money: ReportedMoney }
  /**
   * The provider cannot tell now. Left out, `askAgainMs` is 30 s, and after the payment's time a twentieth of what has passed
   * since, up to ten minutes. `reason` is shown to those who run the gateway.
   */
  | ({ readonly state: "unknown"; readonly reason?: string } & NextLook);

/** What a provider has prepared. */
export interface StartedPayment {
  readonly account?: string;
  readonly session?: string;
  /** When `state` is asked for the first time, in milliseconds. Left out: when the payment expires. */
  readonly askAfterMs?: number;
}

export interface ReportedMoney {
  /** The provider's id of the transfer: the same money has the same id, however often it is reported. */
  readonly transactionId: string;
  readonly amountMinor: bigint;
  readonly currency: Currency;
  /** @defaultValue now */
  readonly paidAt?: Date;
}

export type BookResult =
  | { readonly state: "booked"; readonly payment: Payment }
  /** This transaction was booked before. */
  | { readonly state: "duplicate"; readonly payment: Payment }
  | { readonly state: "not_found" }
  | { readonly state: "wrong_currency"; readonly payment: Payment };

/** What a provider may do with payments; it sees those of its own name only. */
export interface ProviderContext {
  find(paymentId: string): Promise<Payment | undefined>;
  findByAccount(account: string): Promise<Payment | undefined>;
  /** What was booked under this id of the provider; `undefined` when nothing was. */
  findBooking(transactionId: string): Promise<BookedMoney | undefined>;
  book(paymentId: string, money: ReportedMoney): Promise<BookResult>;
  /** The remote invoice was cancelled. Does nothing once there is money. */
  cancelled(paymentId: string): Promise<void>;
  /** An attempt failed: the payment waits for the next one. */
  failed(paymentId: string): Promise<void>;
  /**
   * Replaces `payment.session`, provided that it still is what `payment` holds: of several callers who saw the same one,
   * one wins, and the others get `undefined`. What must not be sent twice is sent only after this has resolved.
   */
  remember(payment: Payment, state: RememberedState): Promise<Payment | undefined>;
  /** Where the payer's browser goes: the page of a payment. */
  payUrl(paymentId: string): string;
}

export interface StartContext {
  /** 1, 2, 3, … for this provider; never the same twice. */
  nextNumber(): Promise<number>;
}

/**
 * A way to pay. An ability that a provider lacks is absent. Calls may be repeated after a crash: `start` and `refund`
 * get a key that stays the same, and must not begin twice for one key.
 */
export interface PaymentProvider {
  /** Part of addresses and rows: `[a-z0-9-]+`. */
  readonly name: string;
  /** Currencies and the smallest step of an amount in each. */
  readonly currencies: Readonly<Partial<Record<Currency, { readonly stepMinor: bigint }>>>;
  /** No real money. @defaultValue false */
  readonly test?: boolean;
  payerStep(payment: Payment): PayerStep;
  /** Prepares the payment at the provider. Throws when it cannot; `start` is then called again with the same payment. */
  start?(payment: Payment, context: StartContext): Promise<StartedPayment>;
  /** Asked when the provider said so (`askAfterMs`, `askAgainMs`), and before a payment expires. */
  state?(payment: Payment, context: ProviderContext): Promise<ProviderState>;
  /** Ends the remote invoice. `paid` when the money was faster. */
  cancel?(payment: Payment, context: ProviderContext): Promise<ProviderState>;
  /**
   * Longest pause before a pending refund is asked about again, in milliseconds, for one that a person at hand moves on.
   * Not less than 30 s. @defaultValue a quarter of its age
   */
  readonly refundPauseMs?: number;
  /** `key` is the same for every try of one refund. `pending`: the outcome is not known yet; it is asked again. */
  refund?(request: {
    readonly payment: Payment;
    readonly amountMinor: bigint;
    readonly key: string;
    readonly context: ProviderContext;
  }): Promise<"succeeded" | "failed" | "pending">;
  /** Attempts of a payment for the people who run the gateway, the oldest first. */
  attempts?(payment: Payment): readonly ProviderAttempt[];
  /** What somebody must do so that a pending refund goes on, e.g. an address that the buyer opens. */
  refundNotice?(payment: Payment, key: string): string | undefined;
  /** A person has found out that an attempt of unknown outcome took no money. `false`: none is unknown any more. */
  giveUpAttempt?(payment: Payment, context: ProviderContext): Promise<boolean>;
  /**
   * A person has found the money of an attempt of unknown outcome. Books it and ends the attempt in one change (`money`
   * of {@link RememberedState}), so that it is not found again. `false`: nothing was booked, because no attempt is unknown
   * any more, or this money was booked before.
   */
  recordMoney?(payment: Payment, context: ProviderContext, money: ReportedMoney): Promise<boolean>;
  /**
   * A person has found out how a refund ended whose outcome the provider cannot tell. `false`: nobody was called for it.
   * Afterwards `refund` gives this outcome.
   */
  settleRefund?(request: {
    readonly payment: Payment;
    readonly key: string;
    readonly outcome: "succeeded" | "failed";
    readonly context: ProviderContext;
  }): Promise<boolean>;
  /** Answers what arrives under `/providers/<name>`. `path` is the rest of the path, without the leading slash. */
  callback?(request: {
    readonly request: Request;
    readonly path: string;
    readonly body: Uint8Array;
    readonly context: ProviderContext;
  }): Promise<Response>;
}
