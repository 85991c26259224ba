// Vercel's AI SDK with its two providers. `options.provider` is `openai` (the Responses API), `chat` (the same package over chat
// completions) or `compatible`.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as ai from "ai";

function providers({ baseURL, apiKey, provider }, fetch) {
  const own = createOpenAI({ baseURL, apiKey, fetch });
  const compatible = createOpenAICompatible({
    name: "gateway",
    baseURL,
    apiKey,
    fetch,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  return {
    openai: { text: own, embed: own.embedding, image: own.image },
    chat: { text: own.chat },
    compatible: {
      text: compatible.chatModel,
      embed: compatible.embeddingModel,
      image: compatible.imageModel,
    },
  }[provider];
}

const own = ({ baseURL, apiKey }, fetch) => createOpenAI({ baseURL, apiKey, fetch });
const text = (options, fetch) => providers(options, fetch).text(options.model);

const tokens = (usage) => ({ input: usage.inputTokens, output: usage.outputTokens });

const weather = (calls) =>
  ai.tool({
    description: "The weather of a city.",
    inputSchema: ai.jsonSchema({
      type: "object",
      properties: { city: { type: "string" } },
      required: ["city"],
      additionalProperties: false,
    }),
    execute: async (given) => {
      calls.push(given);
      return { celsius: 21 };
    },
  });

const City = ai.jsonSchema({
  type: "object",
  properties: { name: { type: "string" }, people: { type: "integer" } },
  required: ["name", "people"],
  additionalProperties: false,
});

const asked = (options, fetch) => ({ model: text(options, fetch), prompt: options.prompt, maxRetries: options.retries ?? 0 });

export const vercel = {
  async generateText(options, fetch) {
    const answer = await ai.generateText(asked(options, fetch));
    return { text: answer.text, finish: answer.finishReason, usage: tokens(answer.usage), warnings: answer.warnings ?? [] };
  },

  async streamText(options, fetch) {
    const errors = [];
    const answer = ai.streamText({ ...asked(options, fetch), onError: ({ error }) => errors.push(error) });
    const deltas = [];
    for await (const delta of answer.textStream) deltas.push(delta);
    if (errors.length) throw errors[0];
    return { deltas, finish: await answer.finishReason, usage: tokens(await answer.usage) };
  },

  async generateObject(options, fetch) {
    const answer = await ai.generateObject({ ...asked(options, fetch), schema: City, schemaName: "city" });
    return { object: answer.object, usage: tokens(answer.usage) };
  },

  async streamObject(options, fetch) {
    const answer = ai.streamObject({ ...asked(options, fetch), schema: City, schemaName: "city" });
    for await (const _ of answer.partialObjectStream);
    return { object: await answer.object, usage: tokens(await answer.usage) };
  },

  // Two steps: the model calls the tool, the SDK runs it and shows the model what came of it.
  async tools(options, fetch) {
    const calls = [];
    const answer = await ai.generateText({
      ...asked(options, fetch),
      tools: { weather: weather(calls) },
      stopWhen: ai.isStepCount(3),
    });
    return { text: answer.text, calls, steps: answer.steps.length, results: answer.steps[0].toolResults.map((one) => one.output) };
  },

  async streamTools(options, fetch) {
    const calls = [];
    const answer = ai.streamText({
      ...asked(options, fetch),
      tools: { weather: weather(calls) },
      stopWhen: ai.isStepCount(3),
    });
    const deltas = [];
    for await (const delta of answer.textStream) deltas.push(delta);
    return { text: deltas.join(""), calls, steps: (await answer.steps).length };
  },

  async abort(options, fetch) {
    const controller = new AbortController();
    const answer = ai.streamText({ ...asked(options, fetch), abortSignal: controller.signal });
    const deltas = [];
    for await (const delta of answer.textStream) {
      deltas.push(delta);
      if (deltas.length === options.chunks) controller.abort();
    }
    return deltas;
  },

  async embed(options, fetch) {
    const model = providers(options, fetch).embed(options.model);
    const answer = await ai.embedMany({ model, values: options.values, maxRetries: 0 });
    return { vectors: answer.embeddings, tokens: answer.usage.tokens };
  },

  async image(options, fetch) {
    const model = providers(options, fetch).image(options.model);
    const answer = await ai.generateImage({ model, prompt: options.prompt, size: "1024x1024", maxRetries: 0 });
    return { images: answer.images.map((image) => image.base64), warnings: answer.warnings };
  },

  async transcribe(options, fetch) {
    const answer = await ai.transcribe({
      model: own(options, fetch).transcription(options.model),
      audio: Buffer.from(options.file, "base64"),
      providerOptions: { openai: { prompt: options.prompt } },
      maxRetries: 0,
    });
    return { text: answer.text, seconds: answer.durationInSeconds ?? null };
  },

  async speech(options, fetch) {
    const answer = await ai.generateSpeech({
      model: own(options, fetch).speech(options.model),
      text: options.prompt,
      voice: "alloy",
      maxRetries: 0,
    });
    return { bytes: answer.audio.base64, type: answer.audio.mediaType };
  },
};
