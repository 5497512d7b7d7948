import { type RawBuilder, type SqlBool, sql } from "kysely";
import { randomId } from "../ids.ts";
import {
  type ClaimedDelivery,
  createRoom,
  type GatewayStorage,
  originOf,
  overtakenAfter,
  type ReceiverShare,
} from "../storage.ts";
import { among, type StorageContext } from "./context.ts";
import { secretsOfMerchant } from "./merchant-secrets.ts";
import { integer, paymentSecretPlace, type Row, text } from "./rows.ts";

/** More than one where another worker took what was seen, or several merchants share the places of an origin. */
const maxLooks = 3;
/** Receivers whose first deliveries are read by one statement. */
const receiversAtOnce = 50;

/** Pauses and waiting deliveries belong to one merchant at one origin. */
interface Receiver {
  readonly origin: string;
  readonly merchant: string;
}

interface LookOptions {
  readonly limit: number;
  readonly ttlMs: number;
  /** As stored. */
  readonly lane: number;
  readonly receivers: ReceiverShare | undefined;
  /** The look begins behind this receiver. */
  readonly after: Receiver | undefined;
}

interface Claimed {
  readonly delivery: ClaimedDelivery;
  readonly dueAt: number;
}

interface Look {
  readonly claimed: readonly Claimed[];
  /** The receiver that was chosen from last. */
  readonly last: Receiver | undefined;
  /** Another worker took all that was chosen. */
  readonly isContested: boolean;
  /** Nothing else may be claimed. */
  readonly sawAll: boolean;
}

const toReceiver = ({ origin, merchant }: Row): Receiver => ({ origin: text(origin), merchant: text(merchant) });

/** As the index orders them, all but some rare characters. */
const isAfter = (row: Row, { origin, merchant }: Receiver): boolean =>
  text(row.origin) > origin || (row.origin === origin && text(row.merchant) > merchant);

export type Secrets = (endpointIds: readonly string[]) => Promise<ReadonlyMap<string, readonly string[]>>;

/**
 * Who sends which delivery next. Receivers are walked over in the order of an index whose entries of one receiver stand
 * together: one that is paused, or has no place left, costs one step and not a look at all that waits for it.
 */
export function createClaims(
  { db, dialect, now, later, prepared, seal }: StorageContext,
  secretsInForce: Secrets,
): Pick<GatewayStorage, "claimDeliveries"> {
  /** The receiver that was served last, by lane: the next call goes on behind it, so that each has its turn. */
  const served = new Map<number, Receiver>();

  const isWaiting = (lane: number) => sql<SqlBool>`d.state = 'pending' and d.lane = ${sql.lit(lane)}`;

  /** The first one that waits of the first receiver that fits. */
  const firstOf = (columns: string, lane: number, fits: RawBuilder<SqlBool>) => sql`
    select ${sql.raw(columns)} from gateway_delivery d where ${isWaiting(lane)} and ${fits}
    order by d.origin, d.merchant, d.due_at limit 1`;
  const behindIt =
    dialect === "sqlite"
      ? sql<SqlBool>`(d.origin, d.merchant) > (+w.origin, +w.merchant)` // compared with columns it would use half the index
      : sql<SqlBool>`(d.origin, d.merchant) > (w.origin, w.merchant)`;

  /** Of a receiver: something is due, and its breaker is closed or its pause is over. */
  const hasTurn = () => sql<SqlBool>`w.due_at <= ${now()} and coalesce(r.open_until, 0) <= ${now()}`;

  /**
   * Free, and none of the same payment and endpoint under way. Among due ones of a lane the event that came first goes
   * first; of the other lane only those hold it back that may not be overtaken.
   */
  const mayGo = (lane: number) => sql<SqlBool>`
    d.due_at <= ${now()} and (d.claim is null or d.claim_ends_at <= ${now()}) and not exists (
      select 1 from gateway_delivery other
      where other.payment_id = d.payment_id and other.endpoint_id = d.endpoint_id and (
        (other.claim is not null and other.claim_ends_at > ${now()})
        or (other.sequence < d.sequence and other.state = 'pending' and (
          other.schedule_attempts < ${overtakenAfter} or (other.lane = ${sql.lit(lane)} and other.due_at <= ${now()})
        ))
      )
    )`;

  /** Receivers that have a turn, in the order of the index, with the end of a pause that is over. */
  async function receiversOf(lane: number): Promise<readonly Row[]> {
    const waiting =
      dialect === "mariadb"
        ? sql`(
            select d.origin, d.merchant, min(d.due_at) as due_at
            from gateway_delivery d force index for group by (gateway_delivery_receiver)
            where ${isWaiting(lane)} group by d.state, d.lane, d.origin, d.merchant
          ) w`
        : sql`(
            with recursive walk (id) as (
              select (${firstOf("d.id", lane, sql`true`)})
              union all
              select (${firstOf("d.id", lane, behindIt)}) from walk join gateway_delivery w on w.id = walk.id
            )
            select found.* from walk join gateway_delivery found on found.id = walk.id
          ) w`;
    const { rows } = await sql<Row>`
      select w.origin, w.merchant, coalesce(r.open_until, 0) as open_until
      from ${waiting} left join gateway_receiver r on r.merchant = w.merchant and r.origin = w.origin
      where ${hasTurn()} order by w.origin, w.merchant`.execute(db);
    return rows;
  }

  /** The breaker was open and its time is over: one caller gets the one try that tells whether it may close. */
  async function takeProbe(row: Row, ttlMs: number): Promise<boolean> {
    const { numUpdatedRows } = await db
      .updateTable("gateway_receiver")
      .set({ open_until: later(ttlMs), probe: text(row.id) })
      .where("merchant", "=", row.merchant)
      .where("origin", "=", row.origin)
      .where("open_until", "=", row.open_until)
      .executeTakeFirst();
    return numUpdatedRows === 1n;
  }

  async function look(options: LookOptions): Promise<Look> {
    if (dialect === "postgres") return lookAtOnce(options);
    const { limit, ttlMs, lane } = options;
    const room = createRoom(options.receivers);
    const all = await receiversOf(lane);
    const isBehind = (row: Row): boolean => options.after !== undefined && isAfter(row, options.after);
    const receivers = [...all.filter(isBehind), ...all.filter((row) => !isBehind(row))];
    const chosen: Row[] = [];
    let hasChances = false;
    for (let start = 0; start < receivers.length && chosen.length < limit; start += receiversAtOnce) {
      const firsts = receivers.slice(start, start + receiversAtOnce).flatMap(({ origin, merchant, open_until }) => {
        const places = Math.min(limit - chosen.length, integer(open_until) > 0 ? 1 : room.at(text(origin)));
        if (places <= 0 || room.at(text(origin)) <= 0) return [];
        return sql`select * from (
          select d.id, d.origin, d.merchant, ${open_until} as open_until from gateway_delivery d
          where ${isWaiting(lane)} and d.origin = ${origin} and d.merchant = ${merchant} and ${mayGo(lane)}
          order by d.due_at limit ${sql.lit(places)}
        ) as firsts`;
      });
      if (firsts.length === 0) continue;
      const { rows } = await sql<Row>`${sql.join(firsts, sql` union all `)}`.execute(db);
      for (const row of rows) {
        if (chosen.length >= limit || room.at(text(row.origin)) <= 0) continue;
        hasChances = true;
        if (integer(row.open_until) > 0 && !(await takeProbe(row, ttlMs))) continue;
        room.take(text(row.origin));
        chosen.push(row);
      }
    }
    const claimed = await take(
      chosen.map(({ id }) => text(id)),
      ttlMs,
    );
    const last = chosen.at(-1);
    return {
      claimed,
      last: last && toReceiver(last),
      isContested: hasChances && claimed.length === 0,
      sawAll: chosen.length < limit,
    };
  }

  /** On PostgreSQL all of it is one statement, which spares the ways there and back and stops when it has enough. */
  async function lookAtOnce(options: LookOptions): Promise<Look> {
    const { limit, ttlMs, lane, receivers, after } = options;
    const claim = randomId();
    const running = [...(receivers?.running ?? [])];
    const share = receivers?.limit ?? limit;
    // Without a place to begin, the first walk sees all and the other one nothing.
    const { origin = "", merchant = "" } = after ?? {};
    const isBehind = sql<SqlBool>`(d.origin, d.merchant) > (${origin}, ${merchant})`;
    const isUpTo = sql<SqlBool>`(d.origin, d.merchant) <= (${origin}, ${merchant})`;
    const columns = "d.origin, d.merchant, d.due_at";
    const walk = (isPart: RawBuilder<SqlBool>) => sql`(
      with recursive w as (
        (${firstOf(columns, lane, isPart)})
        union all
        select n.* from w cross join lateral (${firstOf(columns, lane, sql`${behindIt} and ${isPart}`)}) n
      )
      select * from w
    )`;
    const { rows } = await sql<Row>`${prepared}
      with found as (
        select f.id, w.origin, w.merchant, coalesce(r.open_until, 0) as open_until, room.places,
          row_number() over () as turn
        from (${walk(isBehind)} union all ${walk(isUpTo)}) w
          -- Laterals with limits: a planner that may join in another order walks over all receivers first.
          left join lateral (
            select open_until from gateway_receiver where merchant = w.merchant and origin = w.origin limit 1
          ) r on true
          cross join lateral (
            select ${share}::integer - coalesce((
              select b.running
              from unnest(${running.map(([at]) => at)}::varchar[], ${running.map(([, count]) => count)}::integer[])
                as b (origin, running)
              where b.origin = w.origin
            ), 0) as places offset 0
          ) room
          cross join lateral (
            select d.id from gateway_delivery d
            where ${isWaiting(lane)} and d.origin = w.origin and d.merchant = w.merchant and ${mayGo(lane)}
            order by d.due_at limit case when r.open_until > 0 then 1 else greatest(room.places, 0) end
          ) f
        where ${hasTurn()} and room.places > 0
        limit ${limit}
      ),
      chosen as (
        select * from (select found.*, row_number() over (partition by origin order by turn) as place from found) placed
        where place <= places
      ),
      probe as (
        update gateway_receiver r set open_until = ${now()} + ${ttlMs}::bigint, probe = c.id from chosen c
        where c.open_until > 0 and r.merchant = c.merchant and r.origin = c.origin and r.open_until = c.open_until
        returning c.id
      ),
      d as (${taking(
        claim,
        ttlMs,
        sql<SqlBool>`id = any(array(select id from chosen where open_until = 0 union all select id from probe))`,
      ).returningAll()}),
      last as (select origin as last_origin, merchant as last_merchant from chosen order by turn desc limit 1)
      select looked.seen, last.*, ${sql.join(takenColumns.map((column) => sql.raw(column)))}, ${now()} as now
      from (select count(*) as seen from found) looked
        left join last on true
        left join d on true
        left join gateway_event e on e.id = d.event_id
        left join gateway_payment p on p.id = d.payment_id
        left join gateway_merchant m on m.id = d.merchant`.execute(db);
    const [{ seen, last_origin, last_merchant }] = rows as unknown as readonly [Row];
    const claimed = await toClaimed(
      claim,
      rows.filter(({ id }) => id !== null),
    );
    return {
      claimed,
      last: last_origin === null ? undefined : toReceiver({ origin: last_origin, merchant: last_merchant }),
      isContested: integer(seen) > 0 && claimed.length === 0,
      sawAll: integer(seen) < limit,
    };
  }

  const takenColumns = [
    "d.id",
    "d.event_id",
    "d.payment_id",
    "d.endpoint_id",
    "d.url",
    "d.attempts",
    "d.schedule_attempts",
    "e.name",
    "e.body",
    "d.merchant",
    "d.due_at",
    "p.webhook_secret as own_secret",
    "m.webhook_secret as merchant_secret",
    "m.former_secrets",
  ] as const;

  const taking = (claim: string, ttlMs: number, isWanted: RawBuilder<SqlBool>) =>
    db
      .updateTable("gateway_delivery")
      .set({
        claim,
        claim_ends_at: sql`${now()} + ${ttlMs}`,
        attempts: sql`attempts + 1`,
        schedule_attempts: sql`schedule_attempts + 1`,
      })
      .where(isWanted)
      // Hidden from planners without statistics, which would read all that is due instead of these few ids.
      .where(sql`coalesce(state, '')`, "=", "pending")
      .where(sql`coalesce(due_at, 0)`, "<=", now())
      .where(({ eb, or }) => or([eb("claim", "is", null), eb("claim_ends_at", "<=", now())]));

  /** Claims those that are still free: whoever looked at the same time chose the same ones. */
  async function take(ids: readonly string[], ttlMs: number): Promise<readonly Claimed[]> {
    if (ids.length === 0) return [];
    const claim = randomId();
    const { numUpdatedRows } = await taking(claim, ttlMs, among(dialect, "id", ids)).executeTakeFirst();
    if (numUpdatedRows === 0n) return [];
    const rows = await db
      .selectFrom("gateway_delivery as d")
      .innerJoin("gateway_event as e", "e.id", "d.event_id")
      .innerJoin("gateway_payment as p", "p.id", "d.payment_id")
      .leftJoin("gateway_merchant as m", "m.id", "d.merchant")
      .where(among(dialect, "d.id", ids))
      .where("d.claim", "=", claim)
      .select([...takenColumns, now().as("now")])
      .execute();
    return toClaimed(claim, rows);
  }

  async function toClaimed(claim: string, rows: readonly Row[]): Promise<readonly Claimed[]> {
    const endpointIds = new Set(rows.map((row) => text(row.endpoint_id)).filter((id) => id !== ""));
    const secrets = await secretsInForce([...endpointIds]);
    return rows.map((row) => ({
      dueAt: integer(row.due_at),
      delivery: {
        id: text(row.id),
        eventId: text(row.event_id),
        eventName: row.name as ClaimedDelivery["eventName"],
        paymentId: text(row.payment_id),
        merchant: text(row.merchant),
        url: text(row.url),
        endpointId: text(row.endpoint_id),
        body: text(row.body),
        attempt: integer(row.attempts),
        scheduleAttempt: integer(row.schedule_attempts),
        secrets: secretsOf(row, secrets),
        claim,
      },
    }));
  }

  /** None when the row cannot be opened: the keys in force are others. Then only this webhook waits, not all. */
  function secretsOf(row: Row, endpoints: ReadonlyMap<string, readonly string[]>): readonly string[] {
    if (row.endpoint_id !== "") return endpoints.get(text(row.endpoint_id)) ?? [];
    try {
      if (typeof row.own_secret === "string") {
        return [seal.open(row.own_secret, paymentSecretPlace(text(row.payment_id)))];
      }
      const { merchant_secret: newest, former_secrets: former } = row;
      return secretsOfMerchant(seal, text(row.merchant), { newest, former, nowMs: integer(row.now) });
    } catch {
      return [];
    }
  }

  return {
    async claimDeliveries({ limit, ttlMs, lane: name, receivers }) {
      const lane = name === "late" ? 1 : 0;
      const claimed: Claimed[] = [];
      const running = new Map(receivers?.running);
      for (let count = 0; count < maxLooks && claimed.length < limit; count++) {
        const looked = await look({
          limit: limit - claimed.length,
          ttlMs: Math.round(ttlMs),
          lane,
          receivers: receivers && { ...receivers, running },
          after: served.get(lane),
        });
        claimed.push(...looked.claimed);
        for (const { delivery } of looked.claimed) {
          const origin = originOf(delivery.url);
          running.set(origin, (running.get(origin) ?? 0) + 1);
        }
        if (looked.isContested) continue;
        if (looked.last) served.set(lane, looked.last);
        if (looked.sawAll) break;
      }
      return claimed.toSorted((left, right) => left.dueAt - right.dueAt).map(({ delivery }) => delivery);
    },
  };
}
