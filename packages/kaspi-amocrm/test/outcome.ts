import type { FakeAmocrm } from "../src/testing/index.ts";

/** What people see in the account, without ids: equal for equal outcomes, whatever happened on the way. */
export function outcomeOf(amocrm: FakeAmocrm) {
  const skuOf = new Map(amocrm.elements.map(({ id, sku }) => [id, sku]));
  const contactOf = new Map(amocrm.contacts.map((contact) => [contact.id, contact]));
  const byText = (left: unknown, right: unknown) => (JSON.stringify(left) < JSON.stringify(right) ? -1 : 1);
  return {
    leads: amocrm.leads
      .map((lead) => ({
        name: lead.name,
        price: lead.price,
        statusId: lead.statusId,
        phones: lead.contactIds.flatMap((id) => contactOf.get(id)?.phones ?? []),
        goods: [...amocrm.linksOf(lead.id)].map(([id, quantity]) => [skuOf.get(id), quantity]).sort(byText),
        notes: amocrm.notes.filter(({ leadId }) => leadId === lead.id).map(({ text }) => text),
      }))
      .sort(byText),
    phones: amocrm.contacts.flatMap(({ phones }) => phones).sort(),
    skus: amocrm.elements.map(({ sku }) => sku).sort(),
  };
}
