import * as v from "valibot";

/** Ids come as numbers; they stay text with us. */
const id = v.pipe(v.union([v.number(), v.string()]), v.transform(String));
const optionalId = v.fallback(v.nullish(v.pipe(v.union([v.number(), v.string()]), v.transform(String))), undefined);
const seconds = v.fallback(v.nullish(v.number()), undefined);
const list = <Schema extends v.GenericSchema>(item: Schema) => v.fallback(v.nullish(v.array(item)), []);

const fieldValues = list(
  v.object({
    field_id: optionalId,
    field_code: v.fallback(v.nullish(v.string()), undefined),
    values: list(v.object({ value: v.fallback(v.nullish(v.unknown()), undefined) })),
  }),
);

export const leadSchema = v.object({
  id,
  name: v.fallback(v.nullish(v.string()), ""),
  price: v.fallback(v.nullish(v.number()), undefined),
  price_with_minor_units: v.fallback(v.nullish(v.number()), undefined),
  status_id: optionalId,
  pipeline_id: optionalId,
  created_at: seconds,
  updated_at: seconds,
  updated_by: optionalId,
  custom_fields_values: fieldValues,
  _embedded: v.fallback(v.nullish(v.object({ tags: list(v.object({ name: v.fallback(v.string(), "") })) })), undefined),
});

export const contactSchema = v.object({ id, updated_at: seconds, custom_fields_values: fieldValues });

export const elementSchema = v.object({
  id,
  name: v.fallback(v.nullish(v.string()), ""),
  custom_fields_values: fieldValues,
});

export const linkSchema = v.object({
  entity_id: optionalId,
  to_entity_id: optionalId,
  to_entity_type: v.fallback(v.nullish(v.string()), undefined),
  metadata: v.fallback(
    v.nullish(v.object({ catalog_id: optionalId, quantity: v.fallback(v.nullish(v.number()), undefined) })),
    undefined,
  ),
});

export const noteSchema = v.object({
  id,
  entity_id: optionalId,
  note_type: v.fallback(v.nullish(v.string()), ""),
  params: v.fallback(v.nullish(v.object({ text: v.fallback(v.nullish(v.string()), undefined) })), undefined),
});

export const pipelineSchema = v.object({
  id,
  name: v.fallback(v.nullish(v.string()), ""),
  is_archive: v.fallback(v.nullish(v.boolean()), false),
  _embedded: v.fallback(
    v.nullish(
      v.object({
        statuses: list(
          v.object({
            id,
            name: v.fallback(v.nullish(v.string()), ""),
            type: v.fallback(v.nullish(v.number()), 0),
            sort: v.fallback(v.nullish(v.number()), 0),
          }),
        ),
      }),
    ),
    undefined,
  ),
});

export const customFieldSchema = v.object({
  id,
  name: v.fallback(v.nullish(v.string()), ""),
  code: v.fallback(v.nullish(v.string()), undefined),
  type: v.fallback(v.nullish(v.string()), ""),
});

export const catalogSchema = v.object({
  id,
  name: v.fallback(v.nullish(v.string()), ""),
  type: v.fallback(v.nullish(v.string()), ""),
  can_link_multiple: v.fallback(v.nullish(v.boolean()), undefined),
});

export const userSchema = v.object({
  id,
  name: v.fallback(v.nullish(v.string()), ""),
  rights: v.fallback(v.nullish(v.object({ is_active: v.fallback(v.nullish(v.boolean()), undefined) })), undefined),
});

export const eventSchema = v.object({
  id,
  type: v.fallback(v.nullish(v.string()), ""),
  entity_id: optionalId,
  created_by: optionalId,
  created_at: seconds,
});

export const subscriptionSchema = v.object({
  destination: v.string(),
  settings: list(v.string()),
  disabled: v.fallback(v.nullish(v.boolean()), false),
});

export const lossReasonSchema = v.object({ id, name: v.fallback(v.nullish(v.string()), "") });

export const accountSchema = v.object({
  id,
  name: v.fallback(v.nullish(v.string()), ""),
  subdomain: v.fallback(v.nullish(v.string()), ""),
  current_user_id: optionalId,
  is_api_filter_enabled: v.fallback(v.nullish(v.boolean()), undefined),
});

/** A page of a list: items under the plural name in `_embedded`, more while `_links.next` is there. */
export const pageSchema = <Item extends v.GenericSchema>(plural: string, item: Item) =>
  v.object({
    _embedded: v.object({ [plural]: v.array(item) }),
    _links: v.fallback(v.nullish(v.object({ next: v.fallback(v.nullish(v.object({})), undefined) })), undefined),
  });

/** What bulk writes give back: an id and the `request_id` that was sent, as text, a number or (complex) a list. */
export const writtenSchema = v.object({
  id,
  request_id: v.fallback(
    v.nullish(v.union([v.string(), v.number(), v.array(v.union([v.string(), v.number()]))])),
    undefined,
  ),
  contact_id: optionalId,
  merged: v.fallback(v.nullish(v.boolean()), false),
});

/** `application/problem+json` with the items that were refused. */
export const problemSchema = v.object({
  detail: v.fallback(v.nullish(v.string()), ""),
  "validation-errors": list(
    v.object({
      request_id: v.fallback(v.nullish(v.union([v.string(), v.number()])), undefined),
      errors: list(
        v.object({ code: v.fallback(v.nullish(v.string()), ""), path: v.fallback(v.nullish(v.string()), "") }),
      ),
    }),
  ),
});
