import { ConfigError } from "@orderbridge/core";
import { Agent, fetch as undiciFetch } from "undici";

export interface TlsFetchOptions {
  /** Client certificate and its key, PEM. */
  readonly cert?: string | Uint8Array;
  readonly key?: string | Uint8Array;
  /** Both in one PKCS #12 file, instead of `cert` and `key`. */
  readonly pfx?: Uint8Array;
  readonly passphrase?: string;
  /** Who may have signed the other side's certificate, PEM. @defaultValue the authorities that Node knows */
  readonly ca?: string | Uint8Array;
  /** Talk to a side that cannot prove who it is. Only on a wire that you trust. @defaultValue false */
  readonly insecure?: boolean;
}

/** A `fetch` that shows a client certificate (mutual TLS 1.2 or newer), for the providers that ask for one. */
export function createTlsFetch({ insecure = false, ...tls }: TlsFetchOptions): typeof fetch {
  if ((tls.cert === undefined) !== (tls.key === undefined)) throw new ConfigError("cert and key go together");
  const bytes = (value: string | Uint8Array | undefined) =>
    value === undefined || typeof value === "string" ? value : Buffer.from(value);
  const dispatcher = new Agent({
    connect: {
      minVersion: "TLSv1.2",
      rejectUnauthorized: !insecure,
      ...(tls.cert === undefined ? {} : { cert: bytes(tls.cert), key: bytes(tls.key) }),
      ...(tls.pfx === undefined ? {} : { pfx: bytes(tls.pfx) }),
      ...(tls.passphrase === undefined ? {} : { passphrase: tls.passphrase }),
      ...(tls.ca === undefined ? {} : { ca: bytes(tls.ca) }),
    },
  });
  // The two have the same shape; only the names of the types differ.
  const send = undiciFetch as unknown as (input: unknown, init: object) => Promise<Response>;
  return (input, init) => send(input, { ...init, dispatcher });
}
