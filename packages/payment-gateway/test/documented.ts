import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { expect } from "vitest";

// biome-ignore lint/suspicious/noExplicitAny: a JSON document that is walked freely
type Json = any;

/** The OpenAPI document, judged by a JSON Schema validator that knows nothing of ours. */
export interface Documented {
  readonly document: Json;
  /** A validator for a component, as a request is judged. */
  component(name: string): ValidateFunction;
  /** A validator for any schema that stands in the document. */
  compile(schema: object): ValidateFunction;
  /** Fails unless the answer has a documented status and exactly documented fields. */
  expectAnswer(method: string, path: string, status: number, contentType: string, body: unknown): void;
}

const known = new Map<string, Documented>();

/** The same text is compiled once. */
export function readDocument(text: string): Documented {
  const found = known.get(text) ?? createDocumented(JSON.parse(text));
  known.set(text, found);
  return found;
}

function createAjv(document: Json): Ajv2020 {
  const ajv = new Ajv2020({ strict: true, strictRequired: false, allErrors: true });
  addFormats.default(ajv);
  ajv.addVocabulary(["discriminator", ...Object.keys(document)]);
  ajv.addSchema(document, "openapi");
  return ajv;
}

/** Answers may gain fields later, so readers must be tolerant; here each one must be documented. */
function closed(node: Json): Json {
  if (Array.isArray(node)) return node.map(closed);
  if (typeof node !== "object" || node === null) return node;
  const inner = Object.fromEntries(Object.entries(node).map(([key, value]) => [key, closed(value)]));
  return node.type === "object" && node.properties && node.additionalProperties === undefined
    ? { ...inner, additionalProperties: false }
    : inner;
}

function createDocumented(document: Json): Documented {
  const [ajv, strictAjv] = [createAjv(document), createAjv(closed(document))];
  const validators = new Map<string, ValidateFunction>();
  const at = (judge: Ajv2020, pointer: string): ValidateFunction => {
    const key = `${judge === ajv} ${pointer}`;
    const found = validators.get(key) ?? judge.compile({ $ref: `openapi#${pointer}` });
    validators.set(key, found);
    return found;
  };
  const templates = Object.keys(document.paths).map((path) => ({
    path,
    pattern: new RegExp(`^${path.replace("{id}", "[^/]+")}$`),
  }));
  return {
    document,
    component: (name) => at(ajv, `/components/schemas/${name}`),
    compile: (schema) => ajv.compile(schema),
    expectAnswer(method, path, status, contentType, body) {
      const { pathname } = new URL(path, "https://pay.example");
      // `init` is a template of its own, so it comes before `{id}`.
      const template = templates.find(({ pattern }) => pattern.test(pathname));
      const operation = template && document.paths[template.path][method.toLowerCase()];
      if (!template || !operation) {
        expect([404, 405], `${method} ${pathname} is not documented`).toContain(status);
        return;
      }
      const place = `${method} ${template.path} ${status}`;
      const listed = operation.responses[status] ?? operation.responses.default;
      if (status < 500) expect(Object.keys(operation.responses), place).toContain(String(status));
      const pointer = listed.$ref
        ? listed.$ref.slice(1)
        : `/paths/${template.path.replaceAll("/", "~1").replaceAll("{", "%7B").replaceAll("}", "%7D")}/${method.toLowerCase()}/responses/${status}`;
      const type = contentType.split(";")[0] ?? "";
      expect(status < 400 ? "application/json" : "application/problem+json", place).toBe(type);
      const validate = at(strictAjv, `${pointer}/content/${type.replaceAll("/", "~1")}/schema`);
      expect(validate(body) ? [] : validate.errors, place).toEqual([]);
    },
  };
}
