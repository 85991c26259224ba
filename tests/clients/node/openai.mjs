// OpenAI's own client. `options.body` is the request as Python wrote it; what comes back is what an app would see.
import OpenAI, { toFile } from "openai";

export function client({ baseURL, apiKey, maxRetries }, fetch) {
  return new OpenAI({ baseURL, apiKey, fetch, ...(maxRetries === undefined ? {} : { maxRetries }) });
}

const collected = async (stream) => {
  const seen = [];
  for await (const item of stream) seen.push(item);
  return seen;
};

const file = (bytes, name, type) => toFile(Buffer.from(bytes, "base64"), name, { type });

export const openai = {
  async chat(options, fetch) {
    const { data, request_id } = await client(options, fetch).chat.completions.create(options.body).withResponse();
    return { ...data, request_id };
  },

  async chatStream(options, fetch) {
    return collected(await client(options, fetch).chat.completions.create({ ...options.body, stream: true }));
  },

  // The helper that puts the pieces of a stream together.
  async chatStreamHelper(options, fetch) {
    const stream = client(options, fetch).chat.completions.stream(options.body);
    const deltas = [];
    stream.on("content", (delta) => deltas.push(delta));
    const final = await stream.finalChatCompletion();
    return { deltas, choice: final.choices[0], usage: final.usage ?? null };
  },

  async chatParse(options, fetch) {
    const answer = await client(options, fetch).chat.completions.parse(options.body);
    return answer.choices[0].message.parsed;
  },

  // Runs the tool and asks again, as agents do.
  async chatRunTools(options, fetch) {
    const called = [];
    const tools = options.body.tools.map((tool) => ({
      ...tool,
      function: {
        ...tool.function,
        parse: JSON.parse,
        function: (given) => (called.push(given), JSON.stringify({ celsius: 21 })),
      },
    }));
    const runner = client(options, fetch).chat.completions.runTools({ ...options.body, tools });
    return { content: await runner.finalContent(), called };
  },

  async chatAbort(options, fetch) {
    const controller = new AbortController();
    const stream = await client(options, fetch).chat.completions.create(
      { ...options.body, stream: true },
      { signal: controller.signal },
    );
    const seen = [];
    for await (const chunk of stream) {
      seen.push(chunk.choices[0].delta.content ?? "");
      if (seen.length === options.chunks) controller.abort();
    }
    return seen;
  },

  async completion(options, fetch) {
    return client(options, fetch).completions.create(options.body);
  },

  async embeddings(options, fetch) {
    const answer = await client(options, fetch).embeddings.create(options.body);
    return { vectors: answer.data.map((item) => item.embedding), usage: answer.usage };
  },

  async models(options, fetch) {
    return (await collected(client(options, fetch).models.list())).map((model) => model.id);
  },

  async model(options, fetch) {
    return client(options, fetch).models.retrieve(options.name);
  },

  async image(options, fetch) {
    return client(options, fetch).images.generate(options.body);
  },

  async imageEdit(options, fetch) {
    const image = await file(options.file, "square.png", "image/png");
    return client(options, fetch).images.edit({ ...options.body, image });
  },

  async speech(options, fetch) {
    const answer = await client(options, fetch).audio.speech.create(options.body);
    return {
      type: answer.headers.get("content-type"),
      bytes: Buffer.from(await answer.arrayBuffer()).toString("base64"),
    };
  },

  async transcription(options, fetch) {
    const sound = await file(options.file, "second.wav", "audio/wav");
    return client(options, fetch).audio.transcriptions.create({ ...options.body, file: sound });
  },

  async translation(options, fetch) {
    const sound = await file(options.file, "second.wav", "audio/wav");
    return client(options, fetch).audio.translations.create({ ...options.body, file: sound });
  },

  async moderation(options, fetch) {
    return client(options, fetch).moderations.create(options.body);
  },

  async response(options, fetch) {
    const answer = await client(options, fetch).responses.create(options.body);
    return { ...answer, text: answer.output_text };
  },

  async responseStream(options, fetch) {
    return collected(await client(options, fetch).responses.create({ ...options.body, stream: true }));
  },

  async responseStreamHelper(options, fetch) {
    const stream = client(options, fetch).responses.stream(options.body);
    const types = [];
    for await (const event of stream) types.push(event.type);
    const final = await stream.finalResponse();
    return { types, text: final.output_text, output: final.output, usage: final.usage };
  },

  async responseParse(options, fetch) {
    return (await client(options, fetch).responses.parse(options.body)).output_parsed;
  },

  // Everything one does with a response that is kept: follow it up, look at it, its input, delete it.
  async responseKept(options, fetch) {
    const api = client(options, fetch).responses;
    const first = await api.create(options.body);
    const second = await api.create({ ...options.next, previous_response_id: first.id });
    const found = await api.retrieve(first.id);
    const items = await collected(api.inputItems.list(second.id));
    await api.delete(first.id);
    const gone = await api.retrieve(first.id).catch((error) => error.status);
    return { first, second, found, items, gone };
  },

  async conversation(options, fetch) {
    const api = client(options, fetch);
    const conversation = await api.conversations.create({ metadata: { topic: "rig" } });
    const answer = await api.responses.create({ ...options.body, conversation: conversation.id });
    const items = await collected(api.conversations.items.list(conversation.id, { order: "asc" }));
    const deleted = await api.conversations.delete(conversation.id);
    return { text: answer.output_text, types: items.map((item) => item.role), deleted: deleted.deleted };
  },
};
