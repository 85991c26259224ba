// OpenAI's SDK for Node: one call, and the same as a stream.
//
//     npm install openai
//     GATEWAY_KEY=sk-gw-... node examples/openai_node.mjs
//
// Prints:
//
//     You said: Hello
//     You said: Hello again
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: `${process.env.GATEWAY_URL ?? "http://127.0.0.1:8000"}/v1`,
  apiKey: process.env.GATEWAY_KEY,
  defaultHeaders: { "x-gateway-feature": "chat" },
});
const answer = await client.chat.completions.create({
  model: "mock-1",
  messages: [{ role: "user", content: "Hello" }],
});
console.log(answer.choices[0].message.content);

const stream = await client.chat.completions.create({
  model: "mock-1",
  messages: [{ role: "user", content: "Hello again" }],
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta.content ?? "");
}
console.log();
