// The Node clients of both vendors against a Fust: FUST_URL, FUST_KEY and FUST_MODEL say where; prints what each came to.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const { FUST_URL: url, FUST_KEY: apiKey, FUST_MODEL: model, FUST_TOOLS: tools } = process.env;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "hello" }];
const asked = { model, messages, max_tokens: 5, temperature: 0 };
const found = {};

const whole = await client.chat.completions.create(asked);
let streamed = "";
let usage = null;
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
found.chat = [whole.choices[0].message.content, whole.usage.completion_tokens];
found.stream = [streamed, usage.completion_tokens];

const kinds = [];
for await (const event of await client.responses.create({ model, input: "hello", max_output_tokens: 4, stream: true })) kinds.push(event.type);
found.responses = [kinds[0], kinds.at(-1)];
found.embedding = (await client.embeddings.create({ model, input: "ba" }).catch((error) => ({ data: [{ embedding: [], status: error.status }] }))).data[0].embedding.length;

if (tools) {
  const parameters = { type: "object", properties: { d: { enum: [1, 2] } }, required: ["d"], additionalProperties: false };
  const called = await client.chat.completions.create({
    model, messages, max_tokens: 200, tool_choice: "required", tools: [{ type: "function", function: { name: "now", parameters } }],
  });
  found.tool = JSON.parse(called.choices[0].message.tool_calls[0].function.arguments);
}
try {
  await client.chat.completions.create({ ...asked, model: "no/such" });
} catch (error) {
  found.error = [error.constructor.name, error.status, error.code, Boolean(error.requestID)];
}
const claude = new Anthropic({ baseURL: url, apiKey, maxRetries: 0 });
const final = await claude.messages.stream({ model, max_tokens: 5, messages, temperature: 0 }).finalMessage();
found.anthropic = [final.content[0].text, final.usage.output_tokens];
console.log(JSON.stringify(found));
