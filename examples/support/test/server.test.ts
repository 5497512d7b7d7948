import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { expect, test } from "vitest";
import { run } from "../../../test/run.ts";

const program = (body: string): string[] => [
  "--input-type=module-typescript",
  "--eval",
  `import { createServer } from "node:http";
   import { configure, start, variables } from ${JSON.stringify(join(import.meta.dirname, "../src/index.ts"))};
   ${body}`,
];
const serve = (port: number) => `await start(async () => ({
  server: createServer((_request, response) => response.end("ok")), port: ${port}, host: "127.0.0.1",
  onStop: async () => { process.stdout.write("stopped\\n"); },
}));`;

test("a wrong variable ends the process with code 1, its name and no stack trace", async () => {
  const { code, output } = await run(
    process.execPath,
    program('configure({ SHOP_LOGIN: variables.text("the login") });'),
    {
      env: { SHOP_LOGIN: undefined },
    },
  );
  expect({ code, output }).toEqual({
    code: 1,
    output: "cannot start:\n  SHOP_LOGIN is missing; set it to the login\n",
  });
});

test("a port that is taken is named, with the way to change it", async () => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
  const { port } = other.address() as AddressInfo;
  try {
    const { code, output } = await run(process.execPath, program(serve(port)));
    expect({ code, output }).toEqual({
      code: 1,
      output: `cannot start: port ${port} is taken; set PORT to a free one, e.g. PORT=${port + 1}\n`,
    });
  } finally {
    await new Promise((resolve) => other.close(resolve));
  }
});

test("a configuration error of a package becomes one line", async () => {
  const { code, output } = await run(
    process.execPath,
    program(`import { ConfigError } from "@orderbridge/core";
      await start(async () => { throw new ConfigError("password1 equals password2"); });`),
    { cwd: join(import.meta.dirname, "..") },
  );
  expect({ code, output }).toEqual({ code: 1, output: "cannot start: password1 equals password2\n" });
});

test("SIGTERM ends a server with code 0 after it has cleaned up", async () => {
  const { code, output } = await run(process.execPath, program(`${serve(0)} process.kill(process.pid, "SIGTERM");`));
  expect(code).toBe(0);
  expect(output).toMatch(/^listening on http:\/\/127\.0\.0\.1:\d+\nstopped\n$/);
});
