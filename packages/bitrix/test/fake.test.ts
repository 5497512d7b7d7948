// The fake portal against the vendor's documents, by plain requests: what our client makes of it is tested elsewhere.
// "Batch", "Data encoding", "Large amounts of data", apidocs.bitrix24.ru (read 2026-08); where the sources differ, each reading.
import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { encodePhpMap, parsePhpForm } from "../src/testing/php-form.ts";
import { batch, call, grant, json, origin, type Reply, secretPath, send, setUp } from "./fake-requests.ts";

describe("addresses", () => {
  test.each([
    ["the webhook's path", `${secretPath}/profile`],
    ["a suffix", `${secretPath}/profile.json`],
    ["doubled slashes", `/rest//1//fake-webhook-secret//profile`],
    ["capital letters", `${secretPath}/PROFILE`],
  ])("%s", async (_case, path) => {
    const { fake } = setUp();
    expect(await send(fake, path)).toMatchObject({ status: 200, body: { result: { ADMIN: true } } });
  });

  test.each(["auth", "access_token"])(
    "an application gives its token in %s, in the query or the body",
    async (name) => {
      const { fake } = setUp();
      const token = await grant(fake);
      expect((await send(fake, `/rest/profile?${name}=${token}`)).status).toBe(200);
      expect((await send(fake, "/rest/profile", json({ [name]: token }))).status).toBe(200);
      expect(await send(fake, "/rest/profile")).toMatchObject({ status: 401, body: { error: "NO_AUTH_FOUND" } });
      expect(await send(fake, "/rest/1/wrong-secret/profile")).toMatchObject({
        body: { error: "INVALID_CREDENTIALS" },
      });
    },
  );
});

describe("parameters", () => {
  const title = "Гүлдер + 1 & 100% #5";
  const nested = "fields[TITLE]";
  const multipart = new FormData();
  multipart.append(nested, title);
  test.each<[string, string, RequestInit]>([
    ["JSON", "", json({ fields: { TITLE: title } })],
    ["a form", "", { body: new URLSearchParams({ [nested]: title }) }],
    ["a multipart form", "", { body: multipart }],
    ["a query", `?${new URLSearchParams({ [nested]: title })}`, { method: "GET" }],
    ["a query under an empty body", `?${new URLSearchParams({ [nested]: title })}`, {}],
    ["a body over a query", "?fields[TITLE]=from-the-query", json({ fields: { TITLE: title } })],
    ["a query under a body that is no JSON", `?${new URLSearchParams({ [nested]: title })}`, json('{"fields":')],
  ])("come as %s", async (_case, query, init) => {
    const { fake } = setUp();
    expect((await send(fake, `${secretPath}/crm.deal.add${query}`, init)).status).toBe(200);
    expect(fake.deals.map((deal) => deal.title)).toEqual([title]);
  });

  test("bad JSON is an empty body, so the method misses its parameters", async () => {
    const { fake } = setUp();
    expect(await send(fake, `${secretPath}/crm.deal.add`, json("{"))).toMatchObject({
      status: 400,
      body: { error: "", error_description: "Parameter 'fields' must be array." },
    });
  });

  test("brackets are read, and maps written, as PHP itself does", () => {
    const queries = [
      "a[b][c]=1&a[b][d]=2",
      "a[]=1&a[]=2&a[x]=3&a[]=4",
      "a[5]=1&a[]=2",
      "filter[>ID]=10&filter[!@STAGE_ID][0]=NEW&order[ID]=ASC",
      "a=1&a=2",
      "a=1&a[b]=2",
      "a.b=1&c d=2&e[f.g h]=3",
      "select[]=ID&select[]=UF_*",
      "t=%D0%93%D2%AF%D0%BB+%2B+%23",
    ];
    const script = "foreach (json_decode($argv[1]) as $q) { parse_str($q, $r); $all[] = $r; } echo json_encode($all);";
    const byPhp: unknown[] = JSON.parse(
      execFileSync("php", ["-r", script, JSON.stringify(queries)], { encoding: "utf8" }),
    );
    const encode = (value: unknown): unknown =>
      typeof value === "object" && value !== null
        ? encodePhpMap(Object.entries(value).map(([key, part]) => [key, encode(part)]))
        : value;
    expect(queries.map((query) => encode(parsePhpForm(query)))).toEqual(byPhp);
  });
});

describe("pages", () => {
  const ids = (body: Reply["body"]): number[] => body.result.items.map(({ id }: { id: number }) => id);

  test("offsets are floored to whole pages of 50, with total and next, which is absent on the last one", async () => {
    const { fake } = setUp();
    const all = Array.from({ length: 120 }, () => fake.addDeal({}).id);
    for (const more of [{}, { filter: { ">id": 0 } }]) {
      const at = async (from: number) =>
        (await call(fake, "crm.item.list", { entityTypeId: 2, start: from, ...more })).body;
      expect([ids(await at(0)), (await at(0)).total, (await at(0)).next]).toEqual([all.slice(0, 50), 120, 50]);
      expect([ids(await at(99)), (await at(99)).next]).toEqual([all.slice(50, 100), 100]);
      expect([ids(await at(100)), "next" in (await at(100))]).toEqual([all.slice(100), false]);
    }
  });

  test("start -1 leaves out the count and its cost; key-set pages follow the ids", async () => {
    const { fake } = setUp({ costs: { "crm.deal.list": 0.2 }, countCost: 49.9 });
    const all = Array.from({ length: 60 }, () => fake.addDeal({}).id);
    const page = (after: number) =>
      call(fake, "crm.deal.list", { order: { ID: "ASC" }, filter: { ">ID": after }, start: -1 });
    const first = (await page(0)).body;
    expect([first.total, "next" in first, first.time.processing]).toEqual([0, false, 0.2]);
    expect(first.result.map(({ ID }: { ID: string }) => Number(ID))).toEqual(all.slice(0, 50));
    expect((await page(all[49] as number)).body.result).toHaveLength(10);
    expect((await call(fake, "crm.deal.list")).body.time.processing).toBeCloseTo(50.1);
  });

  test("a row that goes between two offset pages makes another be skipped; one that moves up comes twice", async () => {
    const { fake } = setUp();
    const all = Array.from({ length: 100 }, () => fake.addDeal({ title: "b" }).id);
    let pages = 0;
    fake.setBeforeCommand((method) => {
      if (method === "crm.item.list" && ++pages === 2) fake.deleteDeal(all[0] as number);
      return undefined;
    });
    const cmd = [0, 50].map((from) => `crm.item.list?entityTypeId=2&start=${from}`);
    const [one, two] = (await batch(fake, cmd)).body.result.result;
    const seen = [...one.items, ...two.items].map(({ id }: { id: number }) => id);
    expect(all.filter((id) => !seen.includes(id))).toEqual([all[50]]);

    pages = 0;
    fake.setBeforeCommand(() => {
      if (++pages === 2) fake.addDeal({ title: "a" });
      return undefined;
    });
    const byTitle = [0, 50].map((from) => `crm.item.list?entityTypeId=2&order[title]=ASC&order[id]=ASC&start=${from}`);
    const [before, after] = (await batch(fake, byTitle)).body.result.result;
    expect(after.items[0].id).toBe(before.items[49].id);
  });

  test.each([
    ["%title", "үлд", ["Гүлдер 1"]],
    ["=%title", "гүл%", ["Гүлдер 1"]],
    ["%=title", "%1", ["Гүлдер 1", "Роза (1)+1"]],
    ["!%title", "роза", ["Гүлдер 1"]],
    ["!=%title", "роза%", ["Гүлдер 1"]],
    ["%title", "(1)+", ["Роза (1)+1"]],
    ["@title", ["Гүлдер 1", "нет"], ["Гүлдер 1"]],
    ["!@title", ["Гүлдер 1"], ["Роза (1)+1"]],
    ["0", { logic: "OR", 0: { "=title": "Гүлдер 1" }, 1: { "%title": "роза" } }, ["Гүлдер 1", "Роза (1)+1"]],
    ["0", { "%title": "1", 0: { "!%title": "Роза" } }, ["Гүлдер 1"]],
  ])("are filtered by %s = %s", async (key, value, titles) => {
    const { fake } = setUp();
    for (const title of ["Гүлдер 1", "Роза (1)+1"]) fake.addDeal({ title });
    const { body } = await call(fake, "crm.item.list", { entityTypeId: 2, filter: { [key]: value } });
    expect(body.result.items.map(({ title }: { title: string }) => title)).toEqual(titles);
  });
});

describe("batch", () => {
  test("maps are lists when they are empty or numbered from 0, else objects", async () => {
    const { fake } = setUp();
    const { result } = (await batch(fake, ["profile", "scope"])).body;
    expect([Array.isArray(result.result), result.result_error, result.result_total]).toEqual([true, [], []]);
    const failed = (await batch(fake, ["crm.nothing", "scope"])).body.result;
    expect([failed.result, Object.keys(failed.result_error)]).toEqual([{ 1: ["crm", "sale", "catalog"] }, ["0"]]);
    expect((await batch(fake, {})).body.result.result).toEqual([]);
    expect((await batch(fake, { only: "crm.nothing" })).body.result).toMatchObject({ result: [], result_time: [] });
  });

  test("200 although all failed, each with its own error", async () => {
    const { fake } = setUp();
    const { status, body } = await batch(fake, {
      a: "crm.deal.get?id=1",
      b: "batch",
      c: "upload",
      d: "catalog.product.update?id=1",
    });
    expect(status).toBe(200);
    expect(body.result.result_error).toEqual({
      a: { error: "", error_description: "Not found" },
      b: { error: "ERROR_BATCH_METHOD_NOT_ALLOWED", error_description: expect.any(String) },
      c: { error: "ERROR_BATCH_METHOD_NOT_ALLOWED", error_description: expect.any(String) },
      d: { error: 0, error_description: expect.any(String) },
    });
  });

  test("the 51st command and those after it are refused one by one; the first 50 run", async () => {
    const { fake } = setUp();
    const cmd = Object.fromEntries(
      Array.from({ length: 53 }, (_, at) => [`c${at}`, `crm.deal.add?fields[TITLE]=${at}`]),
    );
    const { result } = (await batch(fake, cmd)).body;
    expect(fake.deals).toHaveLength(50);
    const errors = Object.entries<{ error: string }>(result.result_error).map(([key, { error }]) => [key, error]);
    expect(errors).toEqual(["c50", "c51", "c52"].map((key) => [key, "ERROR_BATCH_LENGTH_EXCEEDED"]));
  });

  test("halt stops at the first failure; later keys are in no map", async () => {
    const { fake } = setUp();
    const cmd = { a: "profile", b: "crm.nothing", c: "crm.deal.add?fields[TITLE]=x" };
    const { result } = (await batch(fake, cmd, { halt: 1 })).body;
    const keys = Object.values<object>(result).flatMap((map) => Object.keys(map));
    expect([new Set(keys), fake.deals.length]).toEqual([new Set(["a", "b"]), 0]);
  });

  test("what is no text is skipped, and a bare # cuts the parameters off", async () => {
    const { fake } = setUp();
    const { result } = (
      await batch(fake, { a: { method: "profile" }, b: "crm.deal.add?fields[TITLE]=№#5&fields[COMMENTS]=x" })
    ).body;
    expect(Object.keys(result.result)).toEqual(["b"]);
    expect([fake.deals[0]?.title, fake.deals[0]?.fields.comments]).toEqual(["№", null]);
  });

  test("in a query the commands are encoded twice", async () => {
    const { fake } = setUp();
    const inner = `crm.deal.add?${new URLSearchParams({ "fields[TITLE]": "a & b" })}`;
    await send(fake, `${secretPath}/batch?${new URLSearchParams({ "cmd[x]": inner })}`, { method: "GET" });
    expect(fake.deals[0]?.title).toBe("a & b");
  });

  describe("references", () => {
    const titleFor = async (text: string): Promise<string | undefined> => {
      const { fake } = setUp();
      const first = fake.addDeal({ title: "Роза" });
      const cmd = {
        one: `crm.deal.get?id=${first.id}`,
        list: "crm.deal.list?start=0",
        bad: "crm.deal.get?id=1",
        made: `crm.deal.add?${new URLSearchParams({ "fields[TITLE]": text.replace("ID", String(first.id)) })}`,
      };
      await batch(fake, cmd);
      return fake.deals[1]?.title;
    };

    test.each([
      ["a value", "$result[one][TITLE]", "Роза"],
      ["a place in a page", "$result[list][0][TITLE]", "Роза"],
      ["inside a text, up to the next space", "от $result[one][TITLE] - да", "от Роза - да"],
      ["inside a text what is no text or number stays as it is written", "x $result[one] y", "x $result[one] y"],
      ["totals and errors as well", "$total[list] / $error[bad][error_description]", "1 / Not found"],
      ["a name that is no map is text", "$results[one][TITLE]", "$results[one][TITLE]"],
    ])("%s", async (_case, text, title) => {
      expect(await titleFor(text)).toBe(title);
    });

    test("a path that ends early gives the deepest value that was found: a page in place of an id", async () => {
      const { fake } = setUp();
      fake.addDeal({ title: "Роза" });
      let got: unknown;
      fake.setBeforeCommand((method, parameters) => {
        if (method === "crm.item.get") got = parameters.id;
        return undefined;
      });
      const list = "crm.item.list?entityTypeId=2&start=-1";
      await batch(fake, { p: list, x: "crm.item.get?entityTypeId=2&id=$result[p][items][49][id]" });
      expect(got).toMatchObject([{ title: "Роза" }]);
      await batch(fake, { p: list, x: "crm.item.get?entityTypeId=2&id=$result[p][items][0][originId]" });
      expect(got).toMatchObject({ title: "Роза", originId: null });
      await batch(fake, { p: list, x: "crm.item.get?entityTypeId=2&id=$result[q]" });
      expect(got).toMatchObject({ p: { items: [{ title: "Роза" }] } });
    });
  });
});

test.each([
  ["", "crm.deal.get", { id: 1 }],
  [0, "catalog.product.update", { id: 1, fields: { name: "x" } }],
  ["100", "crm.item.get", { id: 1 }],
  [200540400001, "sale.order.get", { id: 1 }],
  ["ERROR_METHOD_NOT_FOUND", "crm.nothing", {}],
])("a code may be %j", async (error, method, parameters) => {
  const { fake } = setUp();
  expect((await call(fake, method, parameters)).body.error).toBe(error);
});

describe("trouble on demand", () => {
  test("a reply is dropped, or comes as HTML with 502, after the call ran; a slow one comes later", async () => {
    const { clock, fake } = setUp();
    const add = () => call(fake, "crm.deal.add", { fields: {} });
    fake.faults.add({ fault: { kind: "dropReplyAfterExecuting" } });
    await expect(add()).rejects.toThrow();
    fake.faults.add({ fault: { kind: "failAfterExecuting", status: 502 } });
    expect(await add()).toMatchObject({ status: 502, body: expect.stringContaining("<html>") });
    expect(fake.deals).toHaveLength(2);
    fake.faults.add({ fault: { kind: "slow", ms: 5_000 } });
    const startedAt = clock.now().getTime();
    const slow = add().then(() => clock.now().getTime() - startedAt);
    while (clock.sleepers === 0) await new Promise((resolve) => setImmediate(resolve));
    clock.advance(5_000);
    expect(await slow).toBe(5_000);
  });

  test("OVERLOAD_LIMIT, a redirect that keeps path and query, any refusal of a command", async () => {
    const { fake } = setUp();
    fake.faults.add({ fault: { kind: "block" } });
    expect(await call(fake, "profile")).toMatchObject({ status: 503, body: { error: "OVERLOAD_LIMIT" } });
    fake.faults.clear();
    fake.redirectTo("https://new.bitrix24.kz");
    const moved = await fake.handle(new Request(`${origin}${secretPath}/profile?a=1`, { method: "POST" }));
    expect([moved.status, moved.headers.get("location")]).toEqual([
      302,
      `https://new.bitrix24.kz${secretPath}/profile?a=1`,
    ]);
    fake.redirectTo(undefined);
    fake.setBeforeCommand((method) => (method === "profile" ? { status: 401, error: "expired_token" } : undefined));
    expect(await call(fake, "profile")).toMatchObject({ status: 401, body: { error: "expired_token" } });
    expect((await batch(fake, { a: "profile" })).body.result.result_error.a.error).toBe("expired_token");
    fake.setBeforeCommand(undefined);
    expect((await call(fake, "profile")).status).toBe(200);
  });

  test("an access token ends after an hour; a refresh token works once", async () => {
    const { clock, fake } = setUp();
    const token = await grant(fake);
    clock.advance(3_600_000);
    expect(await send(fake, `/rest/profile?auth=${token}`)).toMatchObject({
      status: 401,
      body: { error: "expired_token" },
    });
    const refresh = () =>
      send(
        fake,
        "/oauth/token/?grant_type=refresh_token&client_id=local.fake&client_secret=fake-client-secret&refresh_token=refresh-1",
      );
    const { body } = await refresh();
    expect([body.refresh_token === "refresh-1", body.expires_in, body.member_id]).toEqual([
      false,
      3600,
      "a223c6b3710f85df22e9377d6c4f7553",
    ]);
    expect(await refresh()).toMatchObject({ status: 400, body: { error: "invalid_grant" } });
  });
});
