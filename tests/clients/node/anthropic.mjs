// Anthropic's own client, which speaks `/v1/messages` and sends its key as `x-api-key`.
import Anthropic from "@anthropic-ai/sdk";

const client = ({ baseURL, apiKey, maxRetries }, fetch) =>
  new Anthropic({ baseURL: baseURL.replace(/\/v1$/, ""), apiKey, fetch, ...(maxRetries === undefined ? {} : { maxRetries }) });

export const anthropic = {
  async message(options, fetch) {
    return client(options, fetch).messages.create(options.body);
  },

  async stream(options, fetch) {
    const stream = client(options, fetch).messages.stream(options.body);
    const deltas = [];
    stream.on("text", (delta) => deltas.push(delta));
    const final = await stream.finalMessage();
    return { deltas, content: final.content, stop: final.stop_reason, usage: final.usage };
  },

  async countTokens(options, fetch) {
    return client(options, fetch).messages.countTokens(options.body);
  },

  async models(options, fetch) {
    const seen = [];
    for await (const model of client(options, fetch).models.list()) seen.push(model.id);
    return seen;
  },
};
