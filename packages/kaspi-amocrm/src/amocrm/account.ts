import { ApiError, ConfigError, SdkError } from "@orderbridge/core";
import * as v from "valibot";
import { instant } from "./fields.ts";
import {
  accountSchema,
  customFieldSchema,
  eventSchema,
  lossReasonSchema,
  pipelineSchema,
  userSchema,
} from "./schemas.ts";
import { type AmocrmTransport, all } from "./transport.ts";

export interface Pipeline {
  readonly id: string;
  readonly name: string;
  readonly isArchive: boolean;
  readonly stages: readonly { readonly id: string; readonly name: string; readonly isUnsorted: boolean }[];
}

export interface CustomField {
  readonly id: string;
  readonly name: string;
  /** `SKU`, `PRICE`, `PHONE`, …; own fields have none. */
  readonly code: string | undefined;
  /** `text`, `numeric`, `multitext`, `price`, … */
  readonly type: string;
}

export interface EventQuery {
  /** E.g. `lead_status_changed`, `lead_deleted`; at most a few. Left out: all. */
  readonly types?: readonly string[];
  /** At most ten. */
  readonly leadIds?: readonly string[];
  /** Left out: from the beginning. */
  readonly since?: Date;
  readonly signal?: AbortSignal;
}

/** An entry of the account's history. */
export interface AmocrmChange {
  readonly id: string;
  readonly type: string;
  readonly leadId: string | undefined;
  /** 0 is a robot, our integration among them. */
  readonly createdBy: string | undefined;
  readonly createdAt: Date | undefined;
}

/** What describes an account. */
export interface AmocrmAccount {
  pipelines(): Promise<readonly Pipeline[]>;
  lossReasons(): Promise<readonly { readonly id: string; readonly name: string }[]>;
  /** Custom fields of leads. */
  leadFields(): Promise<readonly CustomField[]>;
  contactFields(): Promise<readonly CustomField[]>;
  elementFields(catalogId: string): Promise<readonly CustomField[]>;
  /**
   * Makes a text field of leads, unless there is one of this name; resolves to its id. Needs the rights of an
   * administrator. A lost answer is looked up; when it throws all the same, calling it again makes no second field.
   *
   * @throws {ConfigError} for a token without these rights.
   * @see developers.kommo.com, "Add custom fields" (June 2026): an array, of which `name` and `type` must be given; 201
   *   with whole fields in `_embedded.custom_fields`, without `request_id`. The page of amocrm.ru, "custom-fields", names
   *   the same address.
   */
  createLeadField(name: string): Promise<string>;
  /** What happened to leads, the newest first; free, unlike filters of leads. */
  events(options?: EventQuery): AsyncIterable<AmocrmChange>;
  users(): Promise<readonly { readonly id: string; readonly name: string; readonly isActive: boolean }[]>;
  account(): Promise<v.InferOutput<typeof accountSchema>>;
}

export function createAccount({ request, items }: AmocrmTransport): AmocrmAccount {
  async function fields(name: string, path: string): Promise<CustomField[]> {
    const found = await all(items(name, path, "custom_fields", customFieldSchema));
    return found.map(({ id, name: title, code, type }) => ({
      id,
      name: title ?? "",
      code: code ?? undefined,
      type: type ?? "",
    }));
  }

  return {
    async pipelines() {
      const found = await all(items("pipelines.list", "/leads/pipelines", "pipelines", pipelineSchema));
      return found.map(({ id, name, is_archive, _embedded }) => ({
        id,
        name: name ?? "",
        isArchive: is_archive === true,
        stages: (_embedded?.statuses ?? []).map((stage) => ({
          id: stage.id,
          name: stage.name ?? "",
          isUnsorted: stage.type === 1,
        })),
      }));
    },
    async lossReasons() {
      const found = await all(items("lossReasons.list", "/leads/loss_reasons", "loss_reasons", lossReasonSchema));
      return found.map(({ id, name }) => ({ id, name: name ?? "" }));
    },
    leadFields: () => fields("leadFields.list", "/leads/custom_fields"),
    contactFields: () => fields("contactFields.list", "/contacts/custom_fields"),
    elementFields: (catalogId) => fields("elementFields.list", `/catalogs/${catalogId}/custom_fields`),
    async createLeadField(name) {
      const isWanted = (field: v.InferOutput<typeof customFieldSchema> | CustomField): boolean =>
        field.name === name && field.type === "text";
      const find = async () => (await fields("leadFields.list", "/leads/custom_fields")).find(isWanted)?.id;
      const known = await find();
      if (known !== undefined) return known;
      let failure: unknown;
      try {
        const answer = await request({
          name: "leadFields.create",
          method: "POST",
          path: "/leads/custom_fields",
          json: [{ name, type: "text" }],
          schema: v.object({ _embedded: v.object({ custom_fields: v.array(customFieldSchema) }) }),
        });
        const made = answer?._embedded.custom_fields.find(isWanted);
        if (made) return made.id;
      } catch (error) {
        if (error instanceof ApiError && error.status === 403 && error.outcome === "refused") {
          throw new ConfigError(
            "amocrm: only an administrator may make a field; use a token of one, or make it by hand",
          );
        }
        if (!SdkError.isInstance(error) || error.outcome === "not-executed" || error.outcome === "refused") throw error;
        failure = error;
      }
      const made = await find();
      if (made !== undefined) return made;
      throw failure ?? new ConfigError("amocrm: the field was not created; look in the settings of leads");
    },
    async *events({ types = [], leadIds = [], since, signal } = {}) {
      if (leadIds.length > 10) throw new ConfigError("amocrm: events takes at most ten leads");
      const filter: [string, string][] = [["filter[entity][]", "lead"]];
      for (const type of types) filter.push(["filter[type][]", type]);
      for (const id of leadIds) filter.push(["filter[entity_id][]", id]);
      if (since) filter.push(["filter[created_at][from]", String(Math.floor(since.getTime() / 1000))]);
      const options = { limit: 100, ...(signal && { signal }) };
      for await (const event of items("events.list", "/events", "events", eventSchema, options, filter)) {
        // A filter that amoCRM does not know it ignores without a word.
        if (types.length > 0 && !types.includes(event.type ?? "")) continue;
        if (leadIds.length > 0 && !leadIds.includes(event.entity_id ?? "")) continue;
        yield {
          id: event.id,
          type: event.type ?? "",
          leadId: event.entity_id ?? undefined,
          createdBy: event.created_by ?? undefined,
          createdAt: instant(event.created_at),
        };
      }
    },
    async users() {
      const found = await all(items("users.list", "/users", "users", userSchema));
      return found.map(({ id, name, rights }) => ({ id, name: name ?? "", isActive: rights?.is_active !== false }));
    },
    async account() {
      const query = new URLSearchParams({ with: "is_api_filter_enabled" });
      const account = await request({ name: "account.get", path: "/account", query, schema: accountSchema });
      if (!account) throw new ConfigError("amocrm: the account answered nothing; check the host");
      return account;
    },
  };
}
