import type { Storage } from "../../ports.ts";
import type { FakeClock } from "../fake-clock.ts";

/** One promise of a port, without a test runner: `run` rejects when an adapter breaks it. */
export interface ConformanceCase<Context> {
  readonly name: string;
  run(context: Context): Promise<void>;
}

export interface StorageContext {
  readonly storage: Storage;
  /**
   * Moves the adapter's time. On a server database this shifts the clock that the statements use, so that cases need
   * not wait.
   */
  readonly clock: Pick<FakeClock, "advance" | "jump" | "now">;
}
