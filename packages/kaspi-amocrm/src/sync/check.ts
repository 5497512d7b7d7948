import { ApiError } from "@orderbridge/core";
import type { Amocrm } from "../amocrm/client.ts";
import type { KaspiAmocrmSyncOptions, StageTarget } from "./options.ts";

/** Compares the options with the account: at most seven calls. Each line says what is wrong and how to mend it. */
export async function checkAccount(
  amocrm: Amocrm,
  options: KaspiAmocrmSyncOptions,
  stages: ReadonlyMap<string, StageTarget>,
): Promise<readonly string[]> {
  const problems: string[] = [];
  const pipelines = await amocrm.pipelines();
  const pipeline = pipelines.find(({ id }) => id === options.pipelineId);
  if (!pipeline) {
    const choice = pipelines.map(({ id, name }) => `${id} (${name})`).join(", ");
    problems.push(`pipelineId ${options.pipelineId} does not exist; choose one of ${choice}`);
  } else {
    const choice = pipeline.stages.map(({ id, name }) => `${id} (${name})`).join(", ");
    if (pipeline.isArchive) problems.push(`pipelineId ${options.pipelineId} is archived; choose another`);
    const first = pipeline.stages.find(({ id }) => id === options.statusId);
    if (!first) problems.push(`statusId ${options.statusId} is not a stage of the pipeline; choose one of ${choice}`);
    else if (first.isUnsorted)
      problems.push(`statusId ${options.statusId} is the stage of incoming leads; choose one of ${choice}`);
    for (const [key, { statusId }] of stages) {
      if (!pipeline.stages.some(({ id }) => id === statusId)) {
        problems.push(
          `statusMap ${key} names stage ${statusId}, which is not in the pipeline; choose one of ${choice}`,
        );
      }
    }
  }
  const reasons = [...stages].filter(([, { lossReasonId }]) => lossReasonId !== undefined);
  if (reasons.length > 0) {
    const known = new Set((await amocrm.lossReasons()).map(({ id }) => id));
    for (const [key, { lossReasonId, statusId }] of reasons) {
      if (statusId !== "143")
        problems.push(`statusMap ${key} has a loss reason, which only stage 143 takes; remove it`);
      else if (!known.has(lossReasonId as string))
        problems.push(`statusMap ${key} names loss reason ${lossReasonId}, which does not exist`);
    }
  }
  if (options.responsibleUserId !== undefined) {
    const user = (await amocrm.users()).find(({ id }) => id === options.responsibleUserId);
    if (!user) problems.push(`responsibleUserId ${options.responsibleUserId} is not a user of the account`);
    else if (!user.isActive)
      problems.push(`responsibleUserId ${options.responsibleUserId} is switched off; choose an active user`);
  }
  if (options.catalogId !== undefined) {
    const catalogs = await amocrm.catalogs.list().catch((error: unknown) => {
      if (error instanceof ApiError && error.status === 403) return undefined; // another plan, or no right to it
      throw error;
    });
    const catalog = catalogs?.find(({ id }) => id === options.catalogId);
    if (!catalogs) {
      problems.push(
        `catalogId ${options.catalogId} cannot be used: the account's plan or the token's rights have no lists; leave it out to keep goods in the note only`,
      );
    } else if (!catalog)
      problems.push(`catalogId ${options.catalogId} does not exist; leave it out to keep goods in the note only`);
    else if (catalog.canLinkMultiple === false) {
      problems.push(
        `catalogId ${options.catalogId} lets an element belong to one lead only; allow several in the list's settings`,
      );
    }
    if (catalog) {
      const codes = new Set((await amocrm.elementFields(catalog.id)).map(({ code }) => code));
      const missing = ["SKU", "PRICE"].filter((code) => !codes.has(code));
      const goods = catalogs?.filter(({ type }) => type === "products").map(({ id, name }) => `${id} (${name})`) ?? [];
      if (missing.length > 0) {
        problems.push(
          `catalogId ${options.catalogId} has no field ${missing.join(" and ")}; choose a list of type products: ${goods.join(", ") || "the account has none, so make one, or leave it out to keep goods in the note only"}`,
        );
      }
    }
  }
  if (options.orderCodeFieldId !== undefined) {
    const field = (await amocrm.leadFields()).find(({ id }) => id === options.orderCodeFieldId);
    if (!field) problems.push(`orderCodeFieldId ${options.orderCodeFieldId} is not a field of leads`);
    else if (field.type !== "text")
      problems.push(`orderCodeFieldId ${options.orderCodeFieldId} is of type ${field.type}; use a text field`);
  }
  return problems;
}
