import { openDatabase } from "../src/kysely/index.ts";
import { advanceOnce, replaceToken } from "./kill-points.ts";

/** The process of `killed.test.ts` that dies at exactly the given moment. */
const [command, url = "", key = "", lastMoment, vendorUrl = ""] = process.argv.slice(2);
const onMoment = (moment: string) => {
  if (moment !== lastMoment) return;
  process.kill(process.pid, "SIGKILL");
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0); // not one statement more
};
const operation = { ...(await openDatabase(url)), key, onMoment };
if (command === "advance") await advanceOnce(operation);
else await replaceToken(operation, { vendorUrl });
