// Vercel's AI SDK over both of OpenAI's APIs: createOpenAI asks the Responses API, createOpenAICompatible asks chat.
//
//     npm install ai @ai-sdk/openai @ai-sdk/openai-compatible
//     GATEWAY_KEY=sk-gw-... node examples/vercel_ai.mjs
//
// Prints:
//
//     You said: Hello
//     You said: Hello
//     You said: Hello again
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const options = {
  baseURL: `${process.env.GATEWAY_URL ?? "http://127.0.0.1:8000"}/v1`,
  apiKey: process.env.GATEWAY_KEY,
};
const responses = createOpenAI(options);
const chat = createOpenAICompatible({ name: "gateway", ...options });
for (const model of [responses("mock-1"), chat("mock-1")]) {
  console.log((await generateText({ model, prompt: "Hello" })).text);
}
for await (const text of streamText({ model: chat("mock-1"), prompt: "Hello again" }).textStream) {
  process.stdout.write(text);
}
console.log();
