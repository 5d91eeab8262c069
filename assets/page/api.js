// Calls this server. Addresses are relative, so that the page also works behind a prefix.

import { askForKey, key } from "./key.js";

/** What the server says when it refuses. */
export class Problem extends Error {
  constructor(message, { status, code, param, retryAfter, requestId } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter, requestId });
  }
}

async function problem(response) {
  const about = {
    status: response.status,
    retryAfter: response.headers.get("retry-after"),
    requestId: response.headers.get("x-request-id"),
  };
  try {
    const { error } = await response.json();
    return new Problem(error.message, { ...about, code: error.code, param: error.param });
  } catch {
    return new Problem(`The server answered with status ${response.status} and no explanation.`, about);
  }
}

async function call(path, { body, signal, quiet } = {}) {
  for (;;) {
    const headers = {};
    if (body) headers["content-type"] = "application/json";
    const shown = key();
    if (shown) headers.authorization = `Bearer ${shown}`;
    let response;
    try {
      response = await fetch(path, { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server cannot be reached. Is it still running?");
    }
    if (response.ok) return response;
    const refused = await problem(response);
    if (refused.status !== 401 || quiet || !(await askForKey(shown, refused.message, signal))) throw refused;
  }
}

const json = async (path, options) => (await call(path, options)).json();

/** The build, the model and the weights. */
export const version = () => json("version", { quiet: true });

/** What is known of the judge: `able`, `indifferent`, `unreadable` or `untried`; null while the server is not ready. */
export const judge = () => json("readyz", { quiet: true }).then((ready) => ready.judge, () => null);

/** The served models without their `:search` names. */
export const models = async (options) => (await json("v1/models", options)).data.filter((card) => !card.parent);

/** The instructions of a conversation that rules can check. */
export const checks = async (messages, signal) => (await json("v1/checks", { body: { messages }, signal, quiet: true })).checks;

/** A kept search. */
export const keptSearch = (id) => json(`v1/searches/${encodeURIComponent(id)}`);

/** The data of a stream of events, one by one. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length > 0) yield data.join("\n");
    }
  }
}

/** The chunks of a streamed answer. */
export async function* chat(body, signal) {
  const response = await call("v1/chat/completions", { body, signal });
  let ended = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      ended = true;
      continue;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Problem(chunk.error.message, { code: chunk.error.code, param: chunk.error.param });
    yield chunk;
  }
  if (!ended) throw new Problem("The connection ended before the answer did.");
}
