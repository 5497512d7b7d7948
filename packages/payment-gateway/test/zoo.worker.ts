// Receivers that mean harm, in a process of their own: prints where each of them listens, and tells on request how many
// connections it holds and how many requests began.
import { createServer, type Socket } from "node:net";
import { gzipSync } from "node:zlib";

type Animal = (socket: Socket) => void;

/** Writes the same bytes for as long as somebody takes them. */
function pour(socket: Socket, chunk: Buffer | string): void {
  const pump = () => {
    while (!socket.destroyed && socket.write(chunk));
  };
  socket.on("drain", pump);
  pump();
}

/** A little now and then; the last of it without end. */
function drip(socket: Socket, parts: Iterable<string>): void {
  const left = [...parts];
  const timer = setInterval(() => socket.write((left.length > 1 ? left.shift() : left[0]) as string), 20);
  socket.once("close", () => clearInterval(timer));
}

const letters = Buffer.alloc(65_536, "x");
/** 64 kB on the wire, 64 MB unpacked; one after the other they are one stream. */
const bomb = gzipSync(Buffer.alloc(64_000_000));

/** Answers each request on a connection, whatever it holds, with the same bytes. */
const answering =
  (answer: string): Animal =>
  (socket) => {
    socket.on("data", (bytes) => {
      if (bytes.includes("POST ")) socket.write(answer);
    });
  };

const onRequest =
  (act: Animal): Animal =>
  (socket) => {
    socket.once("data", () => {
      socket.on("data", () => undefined);
      act(socket);
    });
  };

const animals = {
  tame: answering("HTTP/1.1 204 No Content\r\n\r\n"),
  neverAnswers: onRequest(() => undefined),
  neverReads: (socket) => void socket.pause(),
  dripsItsHead: onRequest((socket) => drip(socket, "HTTP/1.1 200 OK")),
  dripsHeaders: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\n");
    drip(socket, ["a: b\r\n"]);
  }),
  dripsItsBody: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
    drip(socket, "x");
  }),
  sendsTenGigabytes: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n");
    pour(socket, letters);
  }),
  neverStops: onRequest((socket) => {
    socket.write("HTTP/1.0 200 OK\r\n\r\n");
    pour(socket, letters);
  }),
  sendsGzipBomb: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n");
    pour(socket, bomb);
  }),
  sendsHeadersWithoutEnd: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\n");
    pour(socket, `x-header: ${"a".repeat(1_000)}\r\n`.repeat(64));
  }),
  sendsHeaderWithoutEnd: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\nx-header: ");
    pour(socket, letters);
  }),
  sendsHeaderNameWithoutEnd: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\n");
    pour(socket, letters);
  }),
  sendsReasonWithoutEnd: onRequest((socket) => {
    socket.write("HTTP/1.1 200 ");
    pour(socket, letters);
  }),
  sendsHintsWithoutEnd: onRequest((socket) =>
    pour(socket, "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n".repeat(1_000)),
  ),
  saysContinueWithoutEnd: onRequest((socket) => pour(socket, "HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000))),
  switchesProtocols: onRequest((socket) => {
    socket.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n");
    pour(socket, letters);
  }),
  sendsChunkExtensionWithoutEnd: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;");
    pour(socket, letters);
  }),
  sendsChunkSizeWithoutEnd: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    pour(socket, Buffer.alloc(65_536, "0"));
  }),
  sendsTrailersWithoutEnd: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n");
    pour(socket, `x-trailer: ${"a".repeat(1_000)}\r\n`.repeat(64));
  }),
  speaksHttp10: onRequest((socket) => socket.end("HTTP/1.0 200 OK\r\n\r\nthanks")),
  closesInItsHead: onRequest((socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-le")),
  resets: onRequest((socket) => void socket.resetAndDestroy()),
  saysMoreThanItsLength: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    pour(socket, letters);
  }),
  saysLessThanItsLength: onRequest((socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nok")),
  saysTwoLengths: onRequest((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n");
    pour(socket, letters);
  }),
  answersUnasked: onRequest((socket) => pour(socket, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".repeat(1_000))),
  redirectsForever: answering("HTTP/1.1 308 Permanent Redirect\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n"),
  // Called by https: neither of them ever finishes a handshake.
  acceptsAndIsSilent: () => undefined,
  dripsItsHandshake: (socket) => {
    socket.write(Buffer.from([22, 3, 3, 0x40, 0])); // a record of 16 kB is announced
    drip(socket, "\u0002");
  },
} satisfies Record<string, Animal>;

export type AnimalName = keyof typeof animals;
export interface ZooTally {
  readonly open: number;
  readonly requests: number;
}

const ports: Record<string, number> = {};
const tallies: Record<string, { open: number; requests: number }> = {};

for (const [name, meet] of Object.entries(animals)) {
  const tally = { open: 0, requests: 0 };
  tallies[name] = tally;
  const server = createServer((socket) => {
    tally.open++;
    socket.on("error", () => undefined);
    socket.once("close", () => tally.open--);
    if (name !== "neverReads") {
      socket.on("data", (bytes) => {
        if (bytes.includes("POST ")) tally.requests++;
      });
    }
    meet(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  ports[name] = typeof address === "object" && address ? address.port : 0;
}
process.on("message", (name: string) => process.send?.(tallies[name] satisfies ZooTally | undefined));
process.on("disconnect", () => process.exit());
process.send?.(ports);
