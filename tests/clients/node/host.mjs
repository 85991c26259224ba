// One process for many scenarios: a JSON line in, `{id, suite, scenario, options}`; JSON lines out: every exchange of the
// client, and at last what it saw, `{id, result}` or `{id, error}`.
// Each scenario gets a client of its own, made from `options.baseURL` and `options.apiKey`, and is told apart by its id:
// several may be under way at once.
import readline from "node:readline";

import { anthropic } from "./anthropic.mjs";
import { openai } from "./openai.mjs";
import { vercel } from "./vercel.mjs";

const suites = { anthropic, openai, vercel, host: { fetch: async ({ url }) => (await fetch(url)).status } };

const say = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

function described(error) {
  return {
    class: error.constructor.name,
    message: error.message,
    status: error.status ?? error.statusCode ?? null,
    code: error.code ?? null,
    type: error.type ?? null,
    param: error.param ?? null,
    requestID: error.requestID ?? null,
    cause: error.cause?.message ?? null,
    body: error.responseBody ?? error.error ?? null,
  };
}

async function run({ id, suite, scenario, options }) {
  // What the client asked over the wire and what it was told, its retries included: each a line of its own, at once.
  const counted = async (input, init) => {
    const response = await fetch(input, init);
    const request = `${init?.method ?? "GET"} ${new URL(input.url ?? input).pathname}`;
    say({ id, request, status: response.status });
    return response;
  };
  const answer = { id };
  try {
    answer.result = (await suites[suite][scenario](options, counted)) ?? null;
  } catch (error) {
    answer.error = described(error);
  }
  say(answer);
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  run(JSON.parse(line));
}
