import type { LookupFunction, Socket } from "node:net";
import { buildConnector } from "undici";
import type { ResolvedAddress } from "./sender.ts";

/** Many times a head and the beginning of a body that is kept. */
const maxAnswerBytes = 262_144;

/**
 * Connects to exactly these addresses, and ends a connection whose answer is longer than any that somebody reads: hints,
 * a reason phrase, extensions of chunks and the like may come without end and would keep the process busy until the
 * deadline of the try. HTTP/1.1 only.
 *
 * @param timeoutMs For the connection and its handshake, in milliseconds: what the whole try has.
 */
export function createReceiverConnector(
  addresses: readonly ResolvedAddress[],
  timeoutMs: number,
): buildConnector.connector {
  const lookup: LookupFunction = (_hostname, options, callback) => {
    const [first] = addresses;
    if (!first) callback(new Error("no address"), "");
    else if (options.all) callback(null, [...addresses]);
    else callback(null, first.address, first.family);
  };
  const connect = buildConnector({ lookup, allowH2: false, timeout: timeoutMs });
  return (options, callback) =>
    connect(options, (...result) => {
      if (result[1]) limitAnswers(result[1]);
      callback(...result);
    });
}

/** Counts from each request on, since one connection serves many. */
function limitAnswers(socket: Socket): void {
  let written = 0;
  let readBefore = 0;
  socket.on("readable", () => {
    if (socket.bytesWritten !== written) {
      written = socket.bytesWritten;
      readBefore = socket.bytesRead;
    } else if (socket.bytesRead - readBefore > maxAnswerBytes) {
      socket.destroy(new Error("the answer is too long"));
    }
  });
}
