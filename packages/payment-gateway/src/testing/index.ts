export { createFakeReceiver, type FakeReceiver } from "./fake-receiver.ts";
