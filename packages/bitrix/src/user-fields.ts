import { ApiError } from "@orderbridge/core";
import * as v from "valibot";
import { idText, optionalText, readAnswer, settle, shapeError, yes } from "./answers.ts";
import type { Bitrix } from "./bitrix.ts";
import { InputError } from "./errors.ts";
import type { Parameters } from "./parameters.ts";

export interface UserField {
  readonly id: string;
  /** `UF_CRM_ORDER_ID`. */
  readonly name: string;
  /** `string`, `integer`, `double`, `boolean`, `datetime`, `date`, `money`, `url`, `enumeration`, … */
  readonly type: string;
  readonly isMultiple: boolean;
  readonly isMandatory: boolean;
  readonly xmlId: string | undefined;
  /** Values of an `enumeration`; a deal holds their ids, not their texts. */
  readonly values: readonly { readonly id: string; readonly text: string }[];
}

/** User fields of deals. Needs the rights of a CRM administrator. */
export interface UserFields {
  list(): Promise<readonly UserField[]>;
  /** By its full name, e.g. `UF_CRM_ORDER_ID`. */
  find(name: string): Promise<UserField | undefined>;
  /**
   * The field of this name; it is created when it is missing. The name is `UF_CRM_` and at most 13 of `A`-`Z`, `0`-`9` and
   * `_`. Names are unique in the portal, so a lost reply is settled by a look.
   *
   * @throws {InputError} for a name that Bitrix24 cannot have, and when the field exists with another type: its values
   *   would not be what you expect.
   */
  ensure(
    name: string,
    field: { readonly type: string; readonly label: string; readonly settings?: Parameters },
  ): Promise<UserField>;
}

const fieldSchema = v.object({
  ID: idText,
  FIELD_NAME: v.string(),
  USER_TYPE_ID: v.string(),
  MULTIPLE: yes,
  MANDATORY: yes,
  XML_ID: optionalText,
  LIST: v.optional(v.array(v.object({ ID: idText, VALUE: v.fallback(v.string(), "") })), []),
});

const prefix = "UF_CRM_";

/** "Custom fields of deals", apidocs.bitrix24.ru (read 2026-11). */
export function createUserFields(bitrix: Pick<Bitrix, "call">): UserFields {
  async function list(filter: Parameters): Promise<readonly UserField[]> {
    const method = "crm.deal.userfield.list";
    const rows = readAnswer(v.array(fieldSchema), await bitrix.call(method, { filter, order: { ID: "ASC" } }), method);
    return rows.map((row) => ({
      id: row.ID,
      name: row.FIELD_NAME,
      type: row.USER_TYPE_ID,
      isMultiple: row.MULTIPLE,
      isMandatory: row.MANDATORY,
      xmlId: row.XML_ID,
      values: row.LIST.map(({ ID, VALUE }) => ({ id: ID, text: VALUE })),
    }));
  }
  const find = async (name: string): Promise<UserField | undefined> =>
    (await list({ FIELD_NAME: name })).find((field) => field.name === name);

  return {
    list: () => list({}),
    find,
    async ensure(name, { type, label, settings }) {
      if (!/^UF_CRM_[A-Z0-9_]{1,13}$/.test(name)) {
        throw new InputError("name", "must be UF_CRM_ and at most 13 characters of A-Z, 0-9 and _");
      }
      const create = {
        look: () => find(name),
        async write() {
          const method = "crm.deal.userfield.add";
          // The portal puts the prefix before the name itself.
          const fields = { FIELD_NAME: name.slice(prefix.length), USER_TYPE_ID: type, LABEL: label };
          let refusal: ApiError | undefined;
          try {
            await bitrix.call(method, { fields: settings === undefined ? fields : { ...fields, SETTINGS: settings } });
          } catch (error) {
            // Somebody else may have made it meanwhile: the code for that is not documented, but the field is there then.
            if (!(error instanceof ApiError) || error.outcome !== "refused") throw error;
            refusal = error;
          }
          const created = await find(name);
          if (!created) throw refusal ?? shapeError(method, ["FIELD_NAME"]);
          return created;
        },
      };
      const field = (await find(name)) ?? (await settle(create));
      if (field.type !== type) throw new InputError("type", `is ${type}, but ${name} exists as ${field.type}`);
      return field;
    },
  };
}
