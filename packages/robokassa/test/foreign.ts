import { execFileSync } from "node:child_process";

/** Digests made by other people's programs: the witnesses of our own. */
export type ForeignAlgorithm = "md5" | "ripemd160" | "sha1" | "sha256" | "sha384" | "sha512";

/** coreutils; it has no RIPEMD-160. */
function coreutilsDigest(algorithm: ForeignAlgorithm, text: string): string | undefined {
  if (algorithm === "ripemd160") return undefined;
  return execFileSync(`${algorithm}sum`, { input: text, encoding: "utf8" }).split(" ", 1)[0];
}

function opensslDigest(algorithm: ForeignAlgorithm, text: string): string | undefined {
  const output = execFileSync("openssl", ["dgst", "-provider", "default", "-provider", "legacy", `-${algorithm}`], {
    input: text,
    encoding: "utf8",
  });
  return /([0-9a-f]+)\s*$/.exec(output)?.[1];
}

function phpDigest(algorithm: ForeignAlgorithm, text: string): string | undefined {
  return execFileSync("php", ["-r", `echo hash('${algorithm}', file_get_contents('php://stdin'));`], {
    input: text,
    encoding: "utf8",
  });
}

export const foreignDigests = { coreutils: coreutilsDigest, openssl: opensslDigest, php: phpDigest };

/** Programs that this machine has. */
export function availableDigests(): readonly (keyof typeof foreignDigests)[] {
  return (["coreutils", "openssl", "php"] as const).filter((name) => {
    try {
      return foreignDigests[name]("md5", "") === "d41d8cd98f00b204e9800998ecf8427e"; // RFC 1321
    } catch {
      return false;
    }
  });
}
