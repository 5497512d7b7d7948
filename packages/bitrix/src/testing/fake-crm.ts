import type { Clock } from "@orderbridge/core";
import { type Caller, type Method, Refused, type Row, type Values } from "./fake-bitrix-answer.ts";
import { matchingRows, page } from "./fake-bitrix-rows.ts";

type Methods = Readonly<Record<string, Method>>;

/** A smart process: its fields besides the usual ones, those of them that are yes or no, and its stages. */
export interface FakeSmartProcess {
  readonly entityTypeId: number;
  readonly title: string;
  readonly userFields?: readonly string[];
  readonly booleanFields?: readonly string[];
}

const usualItemFields = [
  "id",
  "xmlId",
  "title",
  "stageId",
  "categoryId",
  "opportunity",
  "currencyId",
  "createdTime",
  "updatedTime",
  "movedTime",
];
const contactFields = [
  "NAME",
  "LAST_NAME",
  "SECOND_NAME",
  "COMMENTS",
  "SOURCE_ID",
  "ORIGINATOR_ID",
  "ORIGIN_ID",
  "ORIGIN_VERSION",
];
const multifields = ["PHONE", "EMAIL"];

/**
 * Contacts, smart processes, payments and user fields of deals, from the pages of `crm.contact`, `crm.item`,
 * `crm.item.payment` and `crm.deal.userfield`, apidocs.bitrix24.ru (read 2026-11). What a second field of one name is
 * answered is not on them; neither is the text of a payment that does not exist.
 */
export function createFakeCrm({
  clock,
  raise,
  write,
  nextId,
  userFields,
}: {
  readonly clock: Clock;
  readonly raise: (event: string, data: Values, by?: Caller) => void;
  readonly write: (method: string, id: unknown, fields: Values) => void;
  readonly nextId: () => number;
  /** Names of the user fields of deals; new ones are put into it. */
  readonly userFields: string[];
}) {
  const contacts = new Map<number, Row>();
  const payments = new Map<number, Row>();
  const processes = new Map<number, FakeSmartProcess>();
  const items = new Map<number, Map<number, Row>>();
  let lastFieldId = 500;
  const labels = ["EDIT_FORM_LABEL", "LIST_COLUMN_LABEL", "LIST_FILTER_LABEL", "ERROR_MESSAGE", "HELP_MESSAGE"];
  const fieldRows: Row[] = userFields.map((name) => toFieldRow(name, { USER_TYPE_ID: "string", LABEL: name }));

  function toFieldRow(name: string, fields: Values): Row {
    const { USER_TYPE_ID, LABEL = null, SETTINGS = {}, LIST } = fields;
    const values = Object.values((LIST ?? {}) as Values) as Values[];
    return {
      ID: String(++lastFieldId),
      ENTITY_ID: "CRM_DEAL",
      FIELD_NAME: name,
      USER_TYPE_ID,
      XML_ID: fields.XML_ID ?? null,
      SORT: String(fields.SORT ?? 100),
      MULTIPLE: fields.MULTIPLE ?? "N",
      MANDATORY: fields.MANDATORY ?? "N",
      SETTINGS,
      ...(USER_TYPE_ID === "enumeration"
        ? {
            LIST: values
              .filter(({ VALUE }) => VALUE !== undefined && VALUE !== "")
              .map(({ VALUE, SORT = 0, DEF = "N", XML_ID = null }) => ({
                ID: String(++lastFieldId),
                SORT: String(SORT),
                VALUE,
                DEF,
                XML_ID,
              })),
          }
        : {}),
      ...Object.fromEntries(labels.map((label) => [label, fields[label] ?? LABEL])),
    };
  }

  function fieldsOf(value: unknown): Values {
    if (typeof value !== "object" || value === null) throw new Refused(400, "", "Parameter 'fields' must be array.");
    return value as Values;
  }

  // ----- contacts

  /** The methods differ in what they say. */
  function findContact(id: unknown, notFound: string): Row {
    if (!(Number(id) > 0)) throw new Refused(400, "", "ID is not defined or invalid.");
    const row = contacts.get(Number(id));
    if (!row) throw new Refused(400, "", notFound);
    return row;
  }
  function saveContact(row: Row, fields: Values): void {
    for (const [name, value] of Object.entries(fields)) {
      if (contactFields.includes(name) || name.startsWith("UF_")) row[name] = value === null ? null : String(value);
      if (!multifields.includes(name)) continue;
      const rows = saveRows(name, row[name], value);
      // Without a value the field itself is absent.
      if (rows.length > 0) row[name] = rows;
      else delete row[name];
      row[`HAS_${name}`] = rows.length > 0 ? "Y" : "N";
    }
    row.DATE_MODIFY = clock.now().toISOString();
  }
  /** A row without `ID` is added, one with `ID` changed, and deleted when it is empty or says so. Others stay. */
  function saveRows(name: string, stored: unknown, given: unknown): readonly Values[] {
    let rows = [...((stored ?? []) as Values[])];
    for (const { ID, VALUE, VALUE_TYPE = "WORK", DELETE } of Object.values(given as Values) as Values[]) {
      const isEmpty = VALUE === undefined || VALUE === "" || DELETE === "Y";
      if (ID === undefined && !isEmpty) {
        rows.push({ ID: String(nextId()), VALUE_TYPE, VALUE: String(VALUE), TYPE_ID: name });
      } else if (isEmpty) rows = rows.filter((row) => row.ID !== String(ID));
      else rows = rows.map((row) => (row.ID === String(ID) ? { ...row, VALUE: String(VALUE), VALUE_TYPE } : row));
    }
    return rows;
  }
  /** `*` leaves out user fields and multifields; without `select` it is `*` and `UF_*`. */
  function pick(row: Row, select: readonly string[]): Row {
    const isWanted = (name: string): boolean => {
      if (name === "ID" || select.includes(name)) return true;
      if (multifields.includes(name)) return false;
      return select.includes(name.startsWith("UF_") ? "UF_*" : "*");
    };
    return Object.fromEntries(Object.entries(row).filter(([name]) => isWanted(name)));
  }
  /** Filters by a multifield match its value exactly. */
  function hasValue(row: Row, filter: Values): boolean {
    return multifields.every((name) => {
      const wanted = filter[name] ?? filter[`=${name}`];
      return wanted === undefined || ((row[name] ?? []) as Values[]).some(({ VALUE }) => VALUE === String(wanted));
    });
  }

  // ----- payments of deals

  function setPaid(id: unknown, paid: boolean): ReturnType<Method> {
    const row = payments.get(Number(id));
    if (!row) throw new Refused(400, 0, "Платёж не найден");
    Object.assign(row, { paid: paid ? "Y" : "N", datePaid: paid ? clock.now().toISOString() : null });
    write(paid ? "crm.item.payment.pay" : "crm.item.payment.unpay", row.id, {});
    return { result: true };
  }

  // ----- smart processes

  function itemsOf(entityTypeId: number): Map<number, Row> {
    const rows = items.get(entityTypeId) ?? new Map<number, Row>();
    items.set(entityTypeId, rows);
    return rows;
  }
  function findItem(process: FakeSmartProcess, id: unknown): Row {
    const row = itemsOf(process.entityTypeId).get(Number(id));
    if (!row) throw new Refused(400, "NOT_FOUND", "Элемент не найден");
    return row;
  }
  const namesOf = ({ userFields: own = [], booleanFields = [] }: FakeSmartProcess): readonly string[] => [
    ...usualItemFields,
    ...own,
    ...booleanFields,
  ];
  function saveItem(process: FakeSmartProcess, row: Row, fields: Values): void {
    const fixed = ["id", "createdTime", "updatedTime", "movedTime"];
    for (const [name, value] of Object.entries(fields)) {
      if (!namesOf(process).includes(name) || fixed.includes(name)) continue; // ignored without a word
      const isYes = value === "Y" || value === true || value === 1 || value === "1";
      row[name] = process.booleanFields?.includes(name) ? (isYes ? "Y" : "N") : value;
    }
    row.updatedTime = clock.now().toISOString();
  }
  function checkFilter(process: FakeSmartProcess, filter: Values): void {
    for (const key of Object.keys(filter)) {
      const name = key.replace(/^(>=|<=|!=|!@|>|<|=|!|@)/, "");
      if (!namesOf(process).includes(name)) {
        throw new Refused(400, "INVALID_ARG_VALUE", `Invalid filter: field '${name}' is not allowed in filter`);
      }
    }
  }

  const smartMethods: Readonly<
    Record<string, (process: FakeSmartProcess, parameters: Values, by: Caller) => ReturnType<Method>>
  > = {
    "crm.item.get": (process, { id }) => ({ result: { item: { ...findItem(process, id) } } }),
    "crm.item.list": (process, parameters) => {
      const filter = (parameters.filter ?? {}) as Values;
      checkFilter(process, filter);
      const booleans = process.booleanFields ?? [];
      // Reads give Y and N, but filters know 1 and 0 only.
      const convert = (row: Row, forms: Values): Row =>
        Object.fromEntries(
          Object.entries(row).map(([name, value]) => [name, booleans.includes(name) ? forms[String(value)] : value]),
        );
      const rows = [...itemsOf(process.entityTypeId).values()].map((row) => convert(row, { Y: "1", N: "0" }));
      return page(rows, parameters, {
        idName: "id",
        wrap: (found) => ({ items: found.map((row) => convert(row, { 1: "Y", 0: "N" })) }),
      });
    },
    "crm.item.add": (process, { fields }, by) => {
      const now = clock.now().toISOString();
      const row: Row = { id: nextId(), xmlId: null, title: "", createdTime: now, movedTime: now };
      for (const name of process.booleanFields ?? []) row[name] = "N";
      saveItem(process, row, fieldsOf(fields));
      itemsOf(process.entityTypeId).set(row.id as number, row);
      write("crm.item.add", row.id, fields as Values);
      raise("ONCRMDYNAMICITEMADD", { FIELDS: { ID: row.id, ENTITY_TYPE_ID: process.entityTypeId } }, by);
      return { result: { item: { ...row } } };
    },
    "crm.item.update": (process, { id, fields }, by) => {
      const row = findItem(process, id);
      saveItem(process, row, fieldsOf(fields));
      write("crm.item.update", row.id, fields as Values);
      raise("ONCRMDYNAMICITEMUPDATE", { FIELDS: { ID: row.id, ENTITY_TYPE_ID: process.entityTypeId } }, by);
      return { result: { item: { ...row } } };
    },
  };

  const methods: Methods = {
    "crm.contact.get": ({ id, ID }) => ({ result: { ...findContact(id ?? ID, "Not found") } }),
    "crm.contact.list": (parameters) => {
      const filter = (parameters.filter ?? {}) as Values;
      const rest = Object.fromEntries(
        Object.entries(filter).filter(([name]) => !multifields.includes(name.replace(/^=/, ""))),
      );
      const select = Object.values((parameters.select ?? ["*", "UF_*"]) as Values).map(String);
      const rows = [...contacts.values()].filter((row) => hasValue(row, filter));
      const { select: _select, ...others } = parameters;
      return page(
        rows,
        { ...others, filter: rest },
        { idName: "ID", wrap: (found) => found.map((row) => pick(row, select)) },
      );
    },
    "crm.contact.add": ({ fields }, by) => {
      const values = fieldsOf(fields);
      const id = nextId();
      const row: Row = {
        ID: String(id),
        NAME: null,
        LAST_NAME: null,
        HAS_PHONE: "N",
        HAS_EMAIL: "N",
        DATE_CREATE: clock.now().toISOString(),
      };
      saveContact(row, values);
      contacts.set(id, row);
      write("crm.contact.add", id, values);
      raise("ONCRMCONTACTADD", { FIELDS: { ID: id } }, by);
      return { result: id };
    },
    "crm.contact.update": ({ id, fields }, by) => {
      const row = findContact(id, "Contact is not found");
      const values = fieldsOf(fields);
      saveContact(row, values);
      write("crm.contact.update", Number(id), values);
      raise("ONCRMCONTACTUPDATE", { FIELDS: { ID: Number(id) } }, by);
      return { result: true };
    },
    "crm.item.payment.list": (parameters) => {
      const { entityId, entityTypeId } = parameters;
      if (entityId === undefined || entityTypeId === undefined) {
        throw new Refused(400, "100", "Could not find value for parameter {entityId}");
      }
      const rows = [...payments.values()].filter(
        (row) => row.entityId === Number(entityId) && row.entityTypeId === Number(entityTypeId),
      );
      const brief = rows.map(({ entityId: _id, entityTypeId: _type, ...row }) => row);
      return page(brief, parameters, { idName: "id", wrap: (found) => found });
    },
    "crm.item.payment.pay": ({ id }) => setPaid(id, true),
    "crm.item.payment.unpay": ({ id }) => setPaid(id, false),
    "crm.deal.userfield.list": ({ filter, order = { SORT: "ASC", ID: "ASC" } }) => {
      const { LANG: language, ...wanted } = (filter ?? {}) as Values;
      const rows = matchingRows(fieldRows, { filter: wanted, order });
      // Labels come in one language, and only when it is named.
      const result = rows.map((row) =>
        Object.fromEntries(Object.entries(row).filter(([name]) => language !== undefined || !labels.includes(name))),
      );
      return { result, total: result.length };
    },
    "crm.deal.userfield.add": ({ fields }) => {
      const values = fieldsOf(fields);
      for (const name of ["FIELD_NAME", "USER_TYPE_ID"]) {
        if ((values[name] ?? "") === "") throw new Refused(400, "", `The '${name}' field is not found.`);
      }
      const name = `UF_CRM_${String(values.FIELD_NAME)}`;
      if (!/^[A-Z0-9_]+$/.test(name)) {
        const allowed = "Allowed characters are: A-Z, 0-9, and _.";
        throw new Refused(400, "", `Field name contains invalid characters. ${allowed}`);
      }
      // The page speaks of 20 characters with the prefix, and of 50 where it lists the errors.
      if (name.length > 20) throw new Refused(400, "", "Field name is too long (more than 50 characters).");
      if (userFields.includes(name)) throw new Refused(400, "", `The field ${name} exists already.`);
      const row = toFieldRow(name, values);
      fieldRows.push(row);
      userFields.push(name);
      write("crm.deal.userfield.add", Number(row.ID), values);
      return { result: Number(row.ID) };
    },
  };

  return {
    /** All methods of the portal; those of `crm.item` go to the smart process that the call names. */
    extend(base: Methods): Methods {
      const shared = Object.entries(smartMethods).map(([name, smart]): [string, Method] => [
        name,
        (parameters, caller) => {
          const process = processes.get(Number(parameters.entityTypeId));
          return process ? smart(process, parameters, caller) : (base[name] as Method)(parameters, caller);
        },
      ]);
      /** As `crm.deal.fields` describes user fields. */
      const described = () =>
        fieldRows.map((row) => [
          row.FIELD_NAME,
          { type: row.USER_TYPE_ID, isMultiple: row.MULTIPLE === "Y", isDynamic: true, title: row.FIELD_NAME },
        ]);
      const dealFields: Method = (parameters, caller) => {
        const { result } = (base["crm.deal.fields"] as Method)(parameters, caller);
        return { result: { ...(result as Values), ...Object.fromEntries(described()) } };
      };
      return { ...base, ...methods, ...Object.fromEntries(shared), "crm.deal.fields": dealFields };
    },
    addDealPayment({ dealId, ...payment }: Values & { readonly id: number; readonly dealId: number }): void {
      const usual = {
        accountNumber: `${payment.id}/1`,
        paid: "N",
        datePaid: null,
        paySystemId: 6,
        sum: 0,
        currency: "KZT",
      };
      payments.set(payment.id, { ...usual, ...payment, entityId: dealId, entityTypeId: 2 });
    },
    addSmartProcess(process: FakeSmartProcess): void {
      processes.set(process.entityTypeId, process);
    },
    contact: (id: number): Values | undefined => contacts.get(id),
    itemsOf: (entityTypeId: number): readonly Values[] => [...itemsOf(entityTypeId).values()],
  };
}
