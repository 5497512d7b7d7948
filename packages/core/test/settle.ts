/** Lets everything that is ready run: promises, and callbacks of sockets and databases that have answered. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}
