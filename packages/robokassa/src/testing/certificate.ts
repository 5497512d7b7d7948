import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";

/** A key and its self-signed certificate, in place of Robokassa's. */
export interface FakeCertificate {
  readonly privateKey: KeyObject;
  /** PEM. */
  readonly certificate: string;
}

/** Makes an RSA key and a certificate for it; takes about a tenth of a second. */
export function createFakeCertificate({
  validFrom,
  validTo,
}: {
  readonly validFrom: Date;
  readonly validTo: Date;
}): FakeCertificate {
  const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const algorithm = sequence(oid("2a864886f70d01010b"), der(0x05)); // sha256WithRSAEncryption
  const name = sequence(der(0x31, sequence(oid("550403"), der(0x0c, Buffer.from("FAKE ROBOKASSA"))))); // CN
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))), // version 3
    der(0x02, Buffer.from([1])), // serial number
    algorithm,
    name,
    sequence(time(validFrom), time(validTo)),
    name,
    publicKey.export({ type: "spki", format: "der" }),
  );
  const signature = der(0x03, Buffer.concat([Buffer.from([0]), sign("sha256", body, privateKey)]));
  const base64 = sequence(body, algorithm, signature).toString("base64");
  const lines = base64.match(/.{1,64}/g) ?? [];
  return {
    privateKey,
    certificate: ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join("\n"),
  };
}

/** One value of ASN.1's DER: tag, length, contents. */
function der(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(contents);
  const { length } = body;
  const size = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 255];
  return Buffer.concat([Buffer.from([tag, ...size]), body]);
}

const sequence = (...parts: readonly Uint8Array[]): Buffer => der(0x30, ...parts);
const oid = (hex: string): Buffer => der(0x06, Buffer.from(hex, "hex"));
/** GeneralizedTime, `20261101100000Z`. */
const time = (at: Date): Buffer => der(0x18, Buffer.from(`${at.toISOString().replace(/[-:T]|\.\d+/g, "")}`));
