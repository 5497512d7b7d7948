import type { Refusal, RefusalCode } from "../refusal.ts";

const statuses: Readonly<Record<RefusalCode, number>> = {
  invalid: 400,
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  conflict: 409,
  in_flight: 409,
  key_reused: 422,
  provider_failed: 502,
};

const titles: Readonly<Record<number, string>> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  409: "Conflict",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  422: "Unprocessable Content",
  500: "Internal Server Error",
  502: "Bad Gateway",
};

/** An error as RFC 9457 writes it, with `success: false` and a `code` for programs. */
export function problem(
  status: number,
  code: string,
  detail: string,
  { field, headers = {} }: { readonly field?: string | undefined; readonly headers?: Record<string, string> } = {},
): Response {
  const body = {
    type: "about:blank",
    title: titles[status] ?? "Error",
    status,
    detail,
    success: false,
    code,
    ...(field === undefined ? {} : { errors: [{ pointer: `#/${field.replaceAll(".", "/")}`, detail }] }),
  };
  return new Response(JSON.stringify(body), {
    status,
    headers: { "content-type": "application/problem+json", "cache-control": "no-store", ...headers },
  });
}

/** The answer to a {@link Refusal}. */
export function refusalAnswer(refusal: Refusal): Response {
  return problem(statuses[refusal.code], refusal.code, refusal.message, {
    field: refusal.field,
    headers:
      refusal.code === "in_flight"
        ? { "retry-after": "1" }
        : refusal.code === "unauthorized"
          ? { "www-authenticate": 'X-API-Token realm="payments"' }
          : {},
  });
}
