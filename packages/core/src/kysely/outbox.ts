import { sql } from "kysely";
import type { ClaimedMessage, OutboxState, OutboxStore } from "../ports.ts";
import { checkKey, checkText } from "../stored-text.ts";
import type { StorageDatabase } from "./storage.ts";
import type { StorageKysely } from "./tables.ts";

const table = "orderbridge_outbox";
const pending: OutboxState = "pending";
const delivered: OutboxState = "delivered";
/** When everything found was taken by others, look again this many times. */
const claimAttempts = 5;

/** No older message of the same topic and key is pending. */
const isFirstOfKey = sql<boolean>`not exists (select 1 from ${sql.table(table)} older where older.state = ${pending} and older.topic = message.topic and older.${sql.id("key")} = message.${sql.id("key")} and older.position < message.position)`;

/** Ends a transaction without its changes. */
class SomeClaimLost extends Error {}

export function createOutbox({ now, after, run, transaction, isJoined, insertIfAbsent }: StorageDatabase): OutboxStore {
  const due = (db: StorageKysely, topic: string) =>
    db
      .selectFrom(`${table} as message`)
      .select("message.position")
      .where("message.state", "=", pending)
      .where("message.topic", "=", topic)
      .where("message.due_at", "<=", now())
      .where("message.claim_ends_at", "<=", now())
      .where(isFirstOfKey);

  const findDue = (db: StorageKysely, topic: string, limit: number) =>
    due(db, topic).orderBy("message.position").limit(limit).execute();

  /** As `findDue`, without what would be too many of one destination together with those that are claimed. */
  const findDueFairly = (db: StorageKysely, topic: string, limit: number, maxPerDestination: number) => {
    const queue = sql<number>`row_number() over (partition by message.destination order by message.position)`;
    const onTheWay = sql`(select count(*) from ${sql.table(table)} busy where busy.state = ${pending} and busy.topic = ${topic} and busy.destination = due.destination and busy.claim_ends_at > ${now()})`;
    return db
      .selectFrom(
        due(db, topic)
          .select(["message.destination", queue.as("place")])
          .as("due"),
      )
      .select("due.position")
      .where(sql<boolean>`due.place + ${onTheWay} <= ${maxPerDestination}`)
      .orderBy("due.position")
      .limit(limit)
      .execute();
  };

  /** Ends a claim; `false` when it was lost. */
  async function end({ id, claim }: ClaimedMessage, values: object): Promise<boolean> {
    const { numUpdatedRows } = await run((db) =>
      db
        .updateTable(table)
        .set({ claim: null, claim_ends_at: 0, ...values })
        .where("id", "=", id)
        .where("claim", "=", claim)
        .where("state", "=", pending)
        .executeTakeFirst(),
    );
    return numUpdatedRows === 1n;
  }

  /** Undoes a claim that was not handed out. */
  async function giveBack(claim: string, positions: readonly number[]): Promise<void> {
    await run((db) =>
      db
        .updateTable(table)
        .set({ claim: null, claim_ends_at: 0, attempts: sql`case when attempts > 0 then attempts - 1 else 0 end` })
        .where("claim", "=", claim)
        .where("position", "in", positions)
        .execute(),
    );
  }

  const complete = (message: ClaimedMessage): Promise<boolean> => end(message, { state: delivered, due_at: now() });

  return {
    async enqueue(messages) {
      for (const { id, topic, key, destination = key, payload } of messages) {
        checkKey("message id", id);
        checkKey("message topic", topic);
        checkKey("message key", key);
        checkKey("message destination", destination);
        checkText("message payload", payload);
      }
      if (messages.length === 0) return 0;
      return transaction(async (db) => {
        let added = 0;
        for (const { id, topic, key, destination = key, payload, delayMs = 0 } of messages) {
          const row = {
            id,
            topic,
            key,
            destination,
            payload,
            state: pending,
            attempts: 0,
            created_at: now(),
            due_at: after(delayMs),
            claim_ends_at: 0,
          };
          if (await insertIfAbsent(db, table, row)) added++;
        }
        return added;
      });
    },
    async claim({ topic, limit, ttlMs, maxPerDestination }) {
      const claim = crypto.randomUUID();
      for (let attempt = 1; attempt <= claimAttempts; attempt++) {
        const found = await run((db) =>
          maxPerDestination === undefined
            ? findDue(db, topic, limit)
            : findDueFairly(db, topic, limit, maxPerDestination),
        );
        if (found.length === 0) return [];
        const { numUpdatedRows } = await run((db) =>
          db
            .updateTable(table)
            .set({ claim, claim_ends_at: after(ttlMs), attempts: sql`attempts + 1` })
            .where(
              "position",
              "in",
              found.map(({ position }) => position),
            )
            .where("state", "=", pending)
            .where("due_at", "<=", now())
            .where("claim_ends_at", "<=", now())
            .executeTakeFirst(),
        );
        if (numUpdatedRows === 0n) continue;
        const rows = await run((db) =>
          db
            .selectFrom(`${table} as message`)
            .selectAll()
            .select(isFirstOfKey.as("is_first"))
            .where("message.claim", "=", claim)
            .orderBy("message.position")
            .execute(),
        );
        // An older one was made due since we looked: not one of them beside the other.
        const later = rows.filter(({ is_first }) => !Number(is_first)).map(({ position }) => position);
        if (later.length > 0) await giveBack(claim, later);
        if (later.length === rows.length) continue;
        const first = rows.filter(({ position }) => !later.includes(position));
        return first.map((row) => ({
          id: row.id,
          topic: row.topic,
          key: row.key,
          payload: row.payload,
          attempt: Number(row.attempts),
          claim,
          createdAt: new Date(Number(row.created_at)),
        }));
      }
      return [];
    },
    complete,
    async completeAll(messages) {
      const oneByOne = async (): Promise<boolean[]> => {
        const kept: boolean[] = [];
        for (const message of messages) kept.push(await complete(message));
        return kept;
      };
      // In a transaction of the caller what went too far could not be undone.
      if (messages.length < 2 || isJoined) return oneByOne();
      const claims = [...new Set(messages.map(({ claim }) => claim))];
      try {
        await transaction(async (db) => {
          let ended = 0n;
          for (const claim of claims) {
            const ids = messages.filter((message) => message.claim === claim).map(({ id }) => id);
            const { numUpdatedRows } = await db
              .updateTable(table)
              .set({ claim: null, claim_ends_at: 0, state: delivered, due_at: now() })
              .where("id", "in", ids)
              .where("claim", "=", claim)
              .where("state", "=", pending)
              .executeTakeFirst();
            ended += numUpdatedRows;
          }
          if (ended !== BigInt(messages.length)) throw new SomeClaimLost();
        });
        return messages.map(() => true);
      } catch (error) {
        if (!(error instanceof SomeClaimLost)) throw error;
        return oneByOne(); // all is undone, and this tells which of them it was
      }
    },
    retry: (message, { delayMs, error }) => end(message, { due_at: after(delayMs), last_error: storable(error) }),
    bury: (message, error) =>
      end(message, { state: "dead" satisfies OutboxState, due_at: now(), last_error: storable(error) }),
    async redeliver(id) {
      checkKey("message id", id);
      return transaction(async (db) => {
        const message = await db.selectFrom(table).select(["topic", "key"]).where("id", "=", id).executeTakeFirst();
        if (!message) return false;
        // Locks what waits behind it: a claim of one of them is seen here, or sees this message when it looks again.
        await db
          .updateTable(table)
          .set({ claim_ends_at: sql.ref("claim_ends_at") })
          .where("state", "=", pending)
          .where("topic", "=", message.topic)
          .where("key", "=", message.key)
          .execute();
        const { busyUntil } = await db
          .selectFrom(table)
          .select(({ fn }) => fn.max("claim_ends_at").as("busyUntil"))
          .where("state", "=", pending)
          .where("topic", "=", message.topic)
          .where("key", "=", message.key)
          .where("id", "!=", id)
          .executeTakeFirstOrThrow();
        const dueAt = sql<number>`case when ${now()} < ${Number(busyUntil ?? 0)} then ${Number(busyUntil ?? 0)} else ${now()} end`;
        const again = { state: pending, attempts: 0, due_at: dueAt };
        const { numUpdatedRows } = await db.updateTable(table).set(again).where("id", "=", id).executeTakeFirst();
        return numUpdatedRows === 1n;
      });
    },
    async get(id) {
      checkKey("message id", id);
      const row = await run((db) => db.selectFrom(table).selectAll().where("id", "=", id).executeTakeFirst());
      if (!row) return undefined;
      return {
        id: row.id,
        topic: row.topic,
        key: row.key,
        payload: row.payload,
        state: row.state as OutboxState,
        attempts: Number(row.attempts),
        createdAt: new Date(Number(row.created_at)),
        dueAt: new Date(Number(row.due_at)),
        ...(row.last_error === null ? {} : { lastError: row.last_error }),
      };
    },
    async nextDueAt(topic) {
      const row = await run((db) =>
        db
          .selectFrom(`${table} as message`)
          .select(
            sql<
              number | null
            >`min(case when message.claim_ends_at > message.due_at then message.claim_ends_at else message.due_at end)`.as(
              "at",
            ),
          )
          .where("message.state", "=", pending)
          .where("message.topic", "=", topic)
          .where(isFirstOfKey)
          .executeTakeFirst(),
      );
      return row?.at == null ? undefined : new Date(Number(row.at));
    },
  };
}

/** An error's text is told as well as it can be: a character that a database refuses must not lose the verdict. */
function storable(error: string): string {
  return error.replaceAll("\0", "\uFFFD").toWellFormed();
}
