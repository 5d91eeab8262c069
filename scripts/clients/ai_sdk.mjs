// Vercel's AI SDK with its providers for OpenAI-compatible servers and for OpenAI: whole, streamed, functions in both turns, typed
// output, searches and embeddings, by chat completions and by responses.
// usage: node ai_sdk.mjs [URL] in a folder with `npm install ai @ai-sdk/openai-compatible @ai-sdk/openai zod`; exits with 1 at the
// first broken promise.
import assert from "node:assert/strict";

import { CITIES, QUESTION, WHERE, attempt, load, server } from "./suite.mjs";

const { embedMany, generateText, Output, stepCountIs, streamText, tool } = await load("ai");
const { createOpenAICompatible, VERSION } = await load("@ai-sdk/openai-compatible");
const { createOpenAI } = await load("@ai-sdk/openai");
const { z } = await load("zod");

const { data } = await (await fetch(`${server}/v1/models`)).json();
const model = data[0].id;
const baseURL = `${server}/v1`;
// What stands under the provider's name in `providerOptions` becomes fields of the body.
const spar = createOpenAICompatible({ name: "spar", baseURL, apiKey: "none", includeUsage: true, supportsStructuredOutputs: true });
const openai = createOpenAI({ baseURL, apiKey: "none" });
const searching = { spar: { search_budget: 2 } };
// A drawn answer may be empty: the model may end at once. The likeliest one is always the same.
const usual = { maxRetries: 0, maxOutputTokens: 32, temperature: 0 };
const exact = { ...usual, maxOutputTokens: 200 };
const place = Output.object({ schema: z.object({ city: z.enum(CITIES), sunny: z.boolean() }) });

// The embedded model calls only where it has to, and then as often as it may.
const oneCall = { spar: { parallel_tool_calls: false }, openai: { parallelToolCalls: false } };

// The loop of an agent: a call, its result, and the answer.
function agent(told) {
  const weather = tool({
    description: "Tells the weather of a city.",
    inputSchema: z.object({ city: z.enum(CITIES) }),
    execute: async ({ city }) => (told.push(city), `Sunny in ${city}.`),
  });
  const prepareStep = ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" });
  return { ...exact, messages: WHERE, tools: { weather }, prepareStep, stopWhen: stepCountIs(2), providerOptions: oneCall };
}

async function calledWith(served) {
  const told = [];
  const answer = await generateText({ model: served, ...agent(told) });
  assert.equal(answer.steps[0].finishReason, "tool-calls");
  assert.ok(told.length === 1 && CITIES.includes(told[0]) && answer.text, JSON.stringify(answer.steps.map((step) => step.content)));
  return told[0];
}

async function calledInAStreamWith(served) {
  const told = [];
  const answer = streamText({ model: served, ...agent(told), onError: ({ error }) => { throw error; } });
  let text = "";
  for await (const piece of answer.textStream) text += piece;
  assert.ok(told.length === 1 && CITIES.includes(told[0]) && text);
  return told[0];
}

async function streamedWith(served, more) {
  const answer = streamText({ model: served, messages: QUESTION, ...usual, ...more, onError: ({ error }) => { throw error; } });
  let text = "";
  for await (const piece of answer.textStream) text += piece;
  assert.ok(text && ["stop", "length"].includes(await answer.finishReason));
  assert.ok((await answer.usage).outputTokens > 0);
  return text;
}

async function typedWith(served) {
  const { output } = await generateText({ model: served, messages: WHERE, output: place, ...exact });
  assert.ok(CITIES.includes(output.city));
  return JSON.stringify(output);
}

async function whole() {
  const answer = await generateText({ model: spar(model), messages: QUESTION, system: "Be brief.", ...usual });
  assert.ok(answer.text && answer.usage.outputTokens > 0 && answer.usage.inputTokens > 0);
  return answer.text;
}

async function streamed() {
  return streamedWith(spar(model));
}

async function searched() {
  const answer = await generateText({ model: spar(model), messages: QUESTION, ...usual, providerOptions: searching });
  assert.ok(answer.response.body.search.calls.answer >= 1);
  return answer.response.body.search.stop_reason;
}

async function searchedInAStream() {
  return streamedWith(spar(`${model}:search`), { providerOptions: searching });
}

async function called() {
  return calledWith(spar(model));
}

async function calledInAStream() {
  return calledInAStreamWith(spar(model));
}

async function typed() {
  return typedWith(spar(model));
}

async function typedInAStream() {
  const answer = streamText({ model: spar(model), messages: WHERE, output: place, ...exact });
  let last;
  for await (const partial of answer.partialOutputStream) last = partial;
  assert.ok(CITIES.includes(last.city) && typeof last.sunny === "boolean");
  return JSON.stringify(last);
}

async function completed() {
  // The kit writes the prompt as a dialogue, which the embedded model would leave without an answer.
  const providerOptions = { spar: { min_tokens: 4 } };
  const answer = await generateText({ model: spar.completionModel(model), prompt: "The river", providerOptions, ...usual });
  assert.ok(answer.text);
  return answer.text;
}

async function embedded() {
  const values = ["The river waits.", "A teacher whispers."];
  const { embeddings, usage } = await embedMany({ model: spar.embeddingModel(model), values, maxRetries: 0 });
  assert.ok(embeddings.length === 2 && embeddings.every((vector) => Math.abs(Math.hypot(...vector) - 1) < 1e-3) && usage.tokens > 0);
  return embeddings[0].length;
}

async function openaiByResponses() {
  const answer = await generateText({ model: openai(model), messages: QUESTION, ...usual });
  assert.ok(answer.text && answer.usage.outputTokens > 0);
  return streamedWith(openai(model));
}

async function openaiByResponsesCalled() {
  return `${await calledWith(openai(model))}, ${await calledInAStreamWith(openai(model))}`;
}

async function openaiByResponsesTyped() {
  return typedWith(openai(model));
}

async function openaiByChats() {
  return `${await streamedWith(openai.chat(model))} ${await calledWith(openai.chat(model))} ${await typedWith(openai.chat(model))}`;
}

async function openaiSearched() {
  return streamedWith(openai(`${model}:search`));
}

const promises = [whole, streamed, searched, searchedInAStream, called, calledInAStream, typed, typedInAStream, completed, embedded];
promises.push(openaiByResponses, openaiByResponsesCalled, openaiByResponsesTyped, openaiByChats, openaiSearched);
await attempt(`@ai-sdk/openai-compatible ${VERSION}, node ${process.version}, ${model}`, promises);
