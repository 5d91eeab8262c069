#!/usr/bin/env node
// Talks to a running server with the unmodified `openai` package: whole, streamed, searched, with events, hanging up.
//
// usage: node openai_smoke.mjs [BASE_URL]      (default http://127.0.0.1:8080/v1; needs `npm install openai`)
// Exits with 1 at the first broken promise.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

// The package is looked for where the command is run, not beside this file.
const require = createRequire(pathToFileURL(path.join(process.cwd(), "x.js")));
const OpenAI = require("openai").default ?? require("openai");

const baseURL = process.argv[2] ?? "http://127.0.0.1:8080/v1";
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const messages = [
  { role: "user", content: "Write about the river. Use at least 12 words. Do not use any commas. Include the word lantern." },
];
const short = { model, messages, max_tokens: 32, seed: 1 };

async function whole() {
  const answer = await client.chat.completions.create(short);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  return answer.choices[0].message.content;
}

async function streamed() {
  const stream = await client.chat.completions.create({ ...short, stream: true, stream_options: { include_usage: true } });
  let [text, finish, usage] = ["", null, null];
  for await (const chunk of stream) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      text += choice.delta.content ?? "";
      finish = choice.finish_reason ?? finish;
    }
  }
  assert.ok(["stop", "length"].includes(finish) && usage);
  return text;
}

async function searched() {
  const answer = await client.chat.completions.create({ ...short, search_budget: 2, search: { votes: 1 } });
  assert.ok(answer.search.nodes <= 2 && answer.search.calls.answer === 1);
  const tokens = Object.values(answer.search.tokens).reduce((sum, one) => sum + one, 0);
  assert.equal(answer.usage.completion_tokens, tokens);
  return JSON.stringify(answer.search.calls);
}

async function searchedStreamed() {
  const stream = await client.chat.completions.create({ ...short, search_budget: 2, stream: true });
  let [text, search] = ["", null];
  for await (const chunk of stream) {
    text += chunk.choices[0].delta.content ?? "";
    search = chunk.search ?? search;
  }
  assert.ok(search && text.length > 0);
  return search.stop_reason;
}

async function searchedWithEvents() {
  const stream = await client.chat.completions.create({
    ...short, stream: true, stream_options: { include_usage: true }, search_budget: 2, search: { votes: 1, events: true },
  });
  let [text, search] = ["", null];
  const events = [];
  for await (const chunk of stream) {
    if (chunk.search_event) {
      assert.equal(chunk.choices.length, 0);
      events.push(chunk.search_event);
    }
    search = chunk.search ?? search;
    text += chunk.choices.map((choice) => choice.delta.content ?? "").join("");
  }
  assert.equal(events[0], "drafted");
  assert.equal(events.at(-1), "stopped");
  assert.ok(search && text.length > 0);
  return events.join(" ");
}

async function alias() {
  const answer = await client.chat.completions.create({ ...short, model: `${model}:search` });
  return answer.search.stop_reason;
}

async function refused() {
  const call = client.chat.completions.create({ ...short, search: { branch: 99 } });
  const error = await call.then(() => assert.fail("a branch of 99 was accepted"), (error) => error);
  assert.ok(error instanceof OpenAI.BadRequestError, String(error));
  assert.equal(error.param, "search.branch");
  return error.message;
}

async function generated() {
  const metrics = await (await fetch(baseURL.replace(/\/v1$/, "/metrics"))).text();
  const lines = metrics.split("\n").filter((line) => line.startsWith("spar_generation_tokens_total"));
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

async function hungUp() {
  const search = { votes: 15, mode: "paper", branch: 8, keep: 8, depth: 16 };
  const start = await generated();
  const stream = await client.chat.completions.create({ model, messages, stream: true, n: 8, search_budget: 64, search });
  await sleep(1000);
  const before = await generated() - start;
  stream.controller.abort();
  await sleep(100);
  const stopped = await generated() - start;
  await sleep(1000);
  const later = await generated() - start;
  assert.ok(before > 0 && later === stopped, `${later - stopped} tokens after the disconnect`);
  return `${before} tokens before the disconnect, ${stopped - before} until 0.1 s after it, then none`;
}

console.log(`openai ${require("openai/version").VERSION}, node ${process.version}, model ${model}`);
for (const promise of [whole, streamed, searched, searchedStreamed, searchedWithEvents, alias, refused, hungUp]) {
  const started = performance.now();
  const shown = await promise();
  console.log(`ok ${promise.name} (${((performance.now() - started) / 1000).toFixed(2)} s): ${shown}`);
}
