import { type Clock, type FetchHandler, systemClock } from "@orderbridge/core";
import { type Caller, type Method, Refused, type Row, type Values } from "./fake-bitrix-answer.ts";
import { matchingRows, page } from "./fake-bitrix-rows.ts";
import { toPhpForm } from "./php-form.ts";

export interface FakeEvent {
  readonly event: string;
  readonly data: Values;
  readonly at: Date;
  /** Status that the receiver answered; `undefined` while it waits, or when it was lost. */
  status: number | undefined;
}

export interface FakeEventOptions {
  /** Where the outgoing webhook sends events to; without it they wait in `events`. A URL or a handler. */
  readonly eventUrl?: string;
  readonly deliver?: FetchHandler;
  /**
   * Handlers that an application bound by `event.bind` are called only with `deliver` or `fetch`.
   *
   * @defaultValue globalThis.fetch, for `eventUrl`
   */
  readonly fetch?: typeof fetch;
  /**
   * Which of the application's own changes stay out of its offline queue: those made with the connector of the binding
   * (the documents), or those with the same connector, none at all included (the portal's source). @defaultValue "documents"
   */
  readonly ownChanges?: "documents" | "source";
  /** Whether the plan has `rest_offline_extended` and `rest_auth_connector`. @defaultValue true */
  readonly offlineExtended?: boolean;
}

interface Binding {
  readonly id: number;
  readonly event: string;
  readonly handler: string;
  readonly offline: boolean;
  readonly connector: string;
  readonly minTimeout: number;
}

const knownEvents = new Set([
  "ONCRMDEALADD",
  "ONCRMDEALUPDATE",
  "ONCRMDEALDELETE",
  "ONCRMDEALMOVETOCATEGORY",
  "ONSALEORDERSAVED",
  "ONORDERENTITYSAVED",
  "ONPAYMENTENTITYSAVED",
  "CATALOG.PRODUCT.ON.ADD",
  "CATALOG.PRODUCT.ON.UPDATE",
  "CATALOG.PRODUCT.ON.DELETE",
  "CATALOG.PRICE.ON.ADD",
  "CATALOG.PRICE.ON.UPDATE",
  "CATALOG.PRICE.ON.DELETE",
  "ONOFFLINEEVENT",
  "ONAPPTEST",
]);

/** What only an application can subscribe to. */
const isForApplications = (event: string): boolean =>
  /^(ONCRMDEALMOVETOCATEGORY|ONOFFLINEEVENT|ONAPP|CATALOG\.)/.test(event);

const list = (value: unknown): readonly string[] =>
  Object.values(typeof value === "object" && value !== null ? value : value === undefined ? [] : [value]).map(String);

/** Events: posted once as a form, and kept in the offline queue of the application. "Events", apidocs.bitrix24.ru (read 2026-08) */
export function createFakeEvents(
  options: FakeEventOptions & {
    readonly clock?: Clock;
    readonly memberId: string;
    readonly applicationToken: string;
    /** Tokens of the user whose action raised an event: an application gets them with it. */
    readonly grantToken: () => Values;
  },
) {
  const { clock = systemClock, memberId, applicationToken, ownChanges = "documents", offlineExtended = true } = options;
  const events: FakeEvent[] = [];
  let copiesOf: (event: FakeEvent, index: number) => number = () => 1;
  let delayOf: (event: FakeEvent, index: number, copy: number) => number = () => 0;
  let eventUrl = options.eventUrl;
  let lastBinding = 975;
  /** The queue server's: without a delay one after the other. */
  let sending: Promise<unknown> = Promise.resolve();
  const delayed = new Set<Promise<void>>();
  let bindings: Binding[] = [];
  let queue: Row[] = [];
  let lastRow = 0;
  let lastProcess = 0;
  let noticeAt = Number.NEGATIVE_INFINITY;

  /** Once; whatever the receiver answers, it is not repeated. */
  async function send(entry: FakeEvent, url: string | undefined, body: string): Promise<void> {
    const init = {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded" },
      body,
    };
    try {
      const answer = options.deliver
        ? await options.deliver(new Request(url ?? "http://receiver.invalid/bitrix/events", init))
        : await (options.fetch ?? fetch)(url as string, init);
      entry.status = answer.status;
      await answer.body?.cancel();
    } catch {
      entry.status = 0;
    }
  }

  /** To one receiver: the outgoing webhook, or a handler of the application. */
  function post(entry: FakeEvent, index: number, url: string | undefined, handlerId: number, tokens: Values): void {
    const body = toPhpForm({
      event: entry.event,
      event_handler_id: handlerId,
      data: entry.data,
      ts: Math.floor(clock.now().getTime() / 1000),
      auth: {
        ...tokens,
        domain: "fake.bitrix24.kz",
        client_endpoint: "https://fake.bitrix24.kz/rest/",
        server_endpoint: "https://oauth.bitrix.info/rest/",
        member_id: memberId,
        application_token: applicationToken,
      },
    }).toString();
    const copies = copiesOf(entry, index);
    for (let copy = 0; copy < copies; copy++) {
      const delayMs = delayOf(entry, index, copy);
      if (delayMs <= 0) {
        sending = sending.then(() => send(entry, url, body));
        continue;
      }
      const task: Promise<void> = clock
        .sleep(delayMs)
        .then(() => send(entry, url, body))
        .finally(() => delayed.delete(task));
      delayed.add(task);
    }
  }

  function publish(event: string, data: Values, by?: Caller): void {
    const entry: FakeEvent = { event, data, at: clock.now(), status: undefined };
    const index = events.push(entry) - 1;
    const hasReceiver = eventUrl !== undefined || options.deliver !== undefined;
    if (hasReceiver && !isForApplications(event)) post(entry, index, eventUrl, 975, {});
    if (!options.deliver && !options.fetch) return;
    for (const binding of bindings) {
      if (binding.offline || binding.event !== event) continue;
      // A robot or an agent has no user.
      post(entry, index, binding.handler, binding.id, by ? options.grantToken() : {});
    }
  }

  /** One row per object and event: repeated changes only move the time; a reserved row is not touched. */
  function enqueue({ event, connector }: Binding, data: Values): void {
    const now = clock.now().toISOString();
    const identity = JSON.stringify([event, data, connector]);
    const waiting = queue.find((row) => row.identity === identity && row.PROCESS_ID === "");
    if (waiting) waiting.TIMESTAMP_X = now;
    else {
      lastRow++;
      queue.push({
        ID: String(lastRow),
        TIMESTAMP_X: now,
        EVENT_NAME: event,
        EVENT_DATA: data,
        EVENT_ADDITIONAL: {},
        MESSAGE_ID: `message-${lastRow}`,
        PROCESS_ID: "",
        ERROR: 0,
        identity,
        connector,
      });
    }
    const notice = bindings.find((binding) => binding.event === "ONOFFLINEEVENT" && !binding.offline);
    if (notice && clock.now().getTime() - noticeAt >= notice.minTimeout * 1000) {
      noticeAt = clock.now().getTime();
      publish("ONOFFLINEEVENT", {});
    }
  }

  function raise(event: string, data: Values, by?: Caller): void {
    for (const binding of bindings) {
      if (!binding.offline || binding.event !== event) continue;
      const sameConnector = by?.isApplication === true && by.connector === binding.connector;
      const isOwn = ownChanges === "source" ? sameConnector : sameConnector && binding.connector !== "";
      if (!isOwn) enqueue(binding, data);
    }
    publish(event, data, by);
  }

  const view = ({ identity: _identity, connector: _connector, ...row }: Row): Row => row;

  function checkLicense(isNeeded: boolean): void {
    if (isNeeded && !offlineExtended) throw new Refused(403, "WRONG_LICENSE", "The feature is not on this plan");
  }

  /** Rows of a process, all or those that are named. */
  function named({ process_id: process, id, message_id: message }: Values): ReadonlySet<Row> {
    if (process === undefined) throw new Refused(400, "ERROR_ARGUMENT", "process_id", { argument: "process_id" });
    const [ids, messages] = [list(id), list(message)];
    return new Set(
      queue.filter(
        (row) =>
          row.PROCESS_ID === String(process) &&
          ((ids.length === 0 && messages.length === 0) ||
            ids.includes(String(row.ID)) ||
            messages.includes(String(row.MESSAGE_ID))),
      ),
    );
  }

  /** Application only. */
  const methods: Readonly<Record<string, Method>> = {
    "event.bind": ({
      event,
      handler = "",
      event_type: type = "online",
      auth_connector: connector = "",
      options: more,
    }) => {
      const name = String(event ?? "").toUpperCase();
      if (!knownEvents.has(name)) throw new Refused(400, "ERROR_EVENT_NOT_FOUND", "Event not found");
      checkLicense(connector !== "");
      const minTimeout = Number((more as Values | undefined)?.minTimeout ?? 1);
      const offline = type === "offline";
      bindings.push({
        id: ++lastBinding,
        event: name,
        handler: String(handler),
        offline,
        connector: String(connector),
        minTimeout,
      });
      return { result: true };
    },
    "event.unbind": ({ event, handler = "", event_type: type = "online" }) => {
      const name = String(event ?? "").toUpperCase();
      const before = bindings.length;
      bindings = bindings.filter(
        (row) => row.event !== name || row.offline !== (type === "offline") || row.handler !== String(handler),
      );
      return { result: { count: before - bindings.length } };
    },
    "event.get": () => ({
      result: bindings.map(({ event, handler, offline, connector }) => ({
        event,
        handler,
        auth_type: "0",
        offline: offline ? 1 : 0,
        ...(offline ? { connector_id: connector } : {}),
      })),
    }),
    events: () => ({ result: [...knownEvents] }),
    "event.offline.list": (parameters) =>
      page(queue.map(view), parameters, { idName: "ID", wrap: (rows) => rows, isSorted: true }),
    // "event.offline.get", apidocs.bitrix24.ru (read 2026-11): the oldest change first, `process_id` null when cleared.
    "event.offline.get": (parameters) => {
      const { limit = 50, clear = 1, auth_connector: connector = "", error = 0, process_id: ongoing } = parameters;
      const keeps = String(clear) === "0";
      checkLicense(keeps || connector !== "");
      const waiting = queue.filter(
        (row) => row.PROCESS_ID === "" && row.connector === connector && Number(row.ERROR) === Number(error),
      );
      const portion = matchingRows(waiting, {
        filter: parameters.filter,
        order: parameters.order ?? { TIMESTAMP_X: "ASC", ID: "ASC" },
      }).slice(0, Number(limit));
      const process = keeps ? String(ongoing ?? `process-${++lastProcess}`) : null;
      if (process !== null) for (const row of portion) row.PROCESS_ID = process;
      else queue = queue.filter((row) => !portion.includes(row));
      return { result: { process_id: process, events: portion.map(view) } };
    },
    "event.offline.clear": (parameters) => {
      const rows = named(parameters);
      queue = queue.filter((row) => !rows.has(row));
      return { result: true };
    },
    "event.offline.error": (parameters) => {
      for (const row of named(parameters)) Object.assign(row, { ERROR: 1, PROCESS_ID: "" });
      return { result: true };
    },
  };

  return {
    events,
    raise,
    methods,
    /** Rows of the offline queue, reserved ones included. */
    get offline(): readonly Row[] {
      return queue.map(view);
    },
    setCopies(next: typeof copiesOf) {
      copiesOf = next;
    },
    setDelay(next: typeof delayOf) {
      delayOf = next;
    },
    setUrl(url: string) {
      eventUrl = url;
    },
    async settled(): Promise<void> {
      for (let seen: unknown; seen !== sending || delayed.size > 0; ) {
        seen = sending;
        await Promise.all([sending, ...delayed]);
      }
    },
  };
}
