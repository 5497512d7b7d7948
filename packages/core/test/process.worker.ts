import { createKyselyStorage, openDatabase } from "../src/kysely/index.ts";

/** The other process of `processes.test.ts`. It tells what it did in lines. */
const [command, url = "", option = ""] = process.argv.slice(2);
const database = await openDatabase(url);
const storage = createKyselyStorage(database);
const { watermarks, outbox, leases } = storage;
const claim = { topic: "import", limit: 3, ttlMs: 400 };

switch (command) {
  case "migrate":
    await storage.migrate();
    console.log("migrated");
    break;
  case "advance":
    for (let left = Number(option); left > 0; ) {
      const position = await watermarks.get("counter");
      if (await watermarks.advance("counter", position, String(Number(position ?? 0) + 1))) left--;
    }
    console.log("advanced");
    break;
  case "deliver":
    for (let batch = 1; ; batch++) {
      const messages = await outbox.claim(claim);
      if (batch > 1 && messages.length > 1) console.log("claimed");
      for (const message of messages) {
        console.log(message.id);
        await outbox.complete(message);
      }
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  case "drain":
    while (await outbox.nextDueAt("import")) {
      for (const message of await outbox.claim(claim)) {
        console.log(message.id);
        await outbox.complete(message);
      }
    }
    break;
  case "hold":
    await leases.acquire("job", { holder: "killed", ttlMs: 1500 });
    console.log("holding");
    await new Promise((resolve) => setTimeout(resolve, 60_000));
}
await database.close();
