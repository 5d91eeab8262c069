// Functions, structured output, responses, embeddings and text completions with the unmodified `openai` package of Node.
// usage: node openai_chat.mjs [URL] in a folder with `npm install openai zod`; exits with 1 at the first broken promise.
import assert from "node:assert/strict";

import { CITIES, QUESTION, WEATHER, WHERE, attempt, load, server } from "./suite.mjs";

const { default: OpenAI } = await load("openai");
const { zodResponseFormat, zodTextFormat } = await load("openai/helpers/zod");
const { VERSION } = await load("openai/version");
const { z } = await load("zod");

const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
// The embedded model does not know when to stop calling.
const oneCall = { temperature: 0, parallel_tool_calls: false, max_tokens: 200 };
const tool = { type: "function", function: { name: "weather", parameters: WEATHER, strict: true } };
const place = z.object({ city: z.enum(CITIES), sunny: z.boolean() });

async function called() {
  const answer = await client.chat.completions.create({ model, messages: WHERE, tools: [tool], tool_choice: "required", ...oneCall });
  const [choice] = answer.choices;
  const [call] = choice.message.tool_calls;
  assert.equal(choice.finish_reason, "tool_calls");
  assert.ok(call.function.name === "weather" && CITIES.includes(JSON.parse(call.function.arguments).city));
  const messages = [...WHERE, choice.message, { role: "tool", tool_call_id: call.id, content: "Sunny." }];
  const said = await client.chat.completions.create({ model, messages, tools: [tool], tool_choice: "none", max_tokens: 16 });
  assert.ok(said.choices[0].message.content);
  return call.function.arguments;
}

async function calledByItsRunner() {
  let told;
  const parse = (text) => JSON.parse(text);
  const weather = ({ city }) => ((told = city), `Sunny in ${city}.`);
  const runnable = { type: "function", function: { ...tool.function, parse, function: weather } };
  const named = { type: "function", function: { name: "weather" } };
  const runner = client.chat.completions.runTools({ model, messages: WHERE, tools: [runnable], tool_choice: named, stream: true, ...oneCall });
  await runner.done();
  assert.ok(CITIES.includes(told), told);
  return told;
}

async function parsed() {
  const answer = await client.chat.completions.parse({
    model, messages: WHERE, response_format: zodResponseFormat(place, "place"), max_tokens: 300, temperature: 0,
  });
  assert.ok(CITIES.includes(answer.choices[0].message.parsed.city));
  return JSON.stringify(answer.choices[0].message.parsed);
}

async function parsedInAStream() {
  const stream = client.chat.completions.stream({
    model, messages: WHERE, response_format: zodResponseFormat(place, "place"), max_tokens: 300, temperature: 0, search_budget: 2,
  });
  const answer = await stream.finalChatCompletion();
  assert.ok(CITIES.includes(answer.choices[0].message.parsed.city));
  return JSON.stringify(answer.choices[0].message.parsed);
}

async function responded() {
  const answer = await client.responses.create({ model, input: QUESTION[0].content, max_output_tokens: 32, search_budget: 2 });
  assert.ok(answer.output_text && answer.search.calls.answer >= 1);
  return answer.search.stop_reason;
}

async function respondedInAStream() {
  const stream = client.responses.stream({ model, input: QUESTION[0].content, max_output_tokens: 64 });
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  const answer = await stream.finalResponse();
  assert.ok(text && text === answer.output_text);
  return text;
}

async function respondedWithAFunction() {
  const tools = [{ type: "function", name: "weather", parameters: WEATHER, strict: true }];
  const asked = { model, tools, temperature: 0, max_output_tokens: 200 };
  const answer = await client.responses.create({ ...asked, input: WHERE, tool_choice: "required", parallel_tool_calls: false });
  const call = answer.output.find((item) => item.type === "function_call");
  assert.ok(CITIES.includes(JSON.parse(call.arguments).city));
  const input = [...WHERE, ...answer.output, { type: "function_call_output", call_id: call.call_id, output: "Sunny." }];
  const said = await client.responses.create({ ...asked, input, tool_choice: "none" });
  assert.ok(said.output_text);
  return call.arguments;
}

async function respondedAsTyped() {
  const answer = await client.responses.parse({
    model, input: WHERE, text: { format: zodTextFormat(place, "place") }, max_output_tokens: 300, temperature: 0,
  });
  assert.ok(CITIES.includes(answer.output_parsed.city));
  return JSON.stringify(answer.output_parsed);
}

async function completed() {
  const answer = await client.completions.create({ model, prompt: "The river", max_tokens: 8, logprobs: 2, temperature: 0 });
  assert.ok(answer.choices[0].text && answer.choices[0].logprobs.tokens.length > 0);
  return answer.choices[0].text;
}

async function embedded() {
  const answer = await client.embeddings.create({ model, input: ["The river waits.", "A teacher whispers."] });
  assert.ok(answer.data.length === 2 && answer.data.every(({ embedding }) => Math.abs(Math.hypot(...embedding) - 1) < 1e-3));
  return answer.data[0].embedding.length;
}

const promises = [called, calledByItsRunner, parsed, parsedInAStream, responded, respondedInAStream, respondedWithAFunction];
await attempt(`openai ${VERSION}, node ${process.version}, ${model}`, [...promises, respondedAsTyped, completed, embedded]);
