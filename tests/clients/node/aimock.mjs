// A mock of many providers, made by others: fixtures come in as one JSON line, its address goes out as another. It ends with its
// standard input.
import readline from "node:readline";

import { LLMock } from "@copilotkit/aimock";

const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { value } = await lines.next();
const mock = new LLMock({ host: "127.0.0.1", port: 0, strict: true, chunkSize: 5 });
mock.addFixturesFromJSON(JSON.parse(value));
await mock.start();
process.stdout.write(`${JSON.stringify({ url: mock.url })}\n`);
await lines.next();
process.exit(0);
