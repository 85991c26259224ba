// Anthropic's SDK for Node: one message, and one as a stream. The base URL is without /v1.
//
//     npm install @anthropic-ai/sdk
//     GATEWAY_KEY=sk-gw-... node examples/anthropic_node.mjs
//
// Prints:
//
//     You said: Hello
//     You said: Hello again
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({
  baseURL: process.env.GATEWAY_URL ?? "http://127.0.0.1:8000",
  apiKey: process.env.GATEWAY_KEY,
});
const ask = (content) => ({ model: "mock-1", max_tokens: 100, messages: [{ role: "user", content }] });
const message = await client.messages.create(ask("Hello"));
console.log(message.content[0].text);

const stream = client.messages.stream(ask("Hello again"));
stream.on("text", (text) => process.stdout.write(text));
await stream.finalMessage();
console.log();
