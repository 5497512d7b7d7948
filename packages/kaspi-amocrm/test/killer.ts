import type { Clock } from "@orderbridge/core";
import type { KyselyPlugin } from "kysely";

/**
 * Counts every outgoing request and every SQL statement (in memory: every call of the storage), before and after, and
 * stops the world at one of them.
 */
export function createKiller(point: number) {
  let passed = 0;
  let die: () => void = () => undefined;
  const dead = new Promise<"killed">((resolve) => {
    die = () => resolve("killed");
  });
  let isDead = false;
  const forEver = new Promise<never>(() => undefined);
  const pass = async () => {
    if (isDead || passed++ === point) {
      isDead = true;
      die();
      await forEver; // a dead process does nothing more, not even fail
    }
  };
  const guard =
    <Arguments extends unknown[], Result>(work: (...input: Arguments) => Promise<Result>) =>
    async (...input: Arguments): Promise<Result> => {
      await pass();
      const result = await work(...input);
      await pass();
      return result;
    };
  const guardAll = <Port extends object>(port: Port): Port =>
    Object.fromEntries(
      Object.entries(port).map(([name, method]) => [name, guard(method as () => Promise<unknown>)]),
    ) as Port;
  /** A statement that is not sent, or whose answer nobody reads: its transaction is rolled back, as when a process dies. */
  function stop(): void {
    if (!isDead && passed++ !== point) return;
    isDead = true;
    die();
    throw new Error("killed");
  }
  const plugin: KyselyPlugin = {
    transformQuery({ node }) {
      stop();
      return node;
    },
    async transformResult({ result }) {
      stop();
      return result;
    },
  };
  /** A dead process waits for nothing any more. */
  const clockOf = (clock: Clock): Clock => ({
    now: clock.now,
    monotonicMs: clock.monotonicMs,
    sleep: (ms, signal) => (isDead ? forEver : clock.sleep(ms, signal)),
  });
  return { dead, guard, guardAll, clockOf, plugin, passed: () => passed };
}
