// One answer while it comes: the chunks of its stream are gathered into a plain object that can be shown and stored.

import { chat } from "./api.js";

/** An answer that has just been asked for; `kind` is `plain` or `searched`. */
export const newRun = (kind, request) => ({
  kind,
  request,
  status: "running", // running | done | stopped | failed
  doing: kind === "plain" ? "waiting" : "drafting", // and judging, refining, answering
  text: "",
  reasoning: "",
  nodes: [],
  votes: null,
  search: null,
  usage: null,
  finish: null,
  error: null,
  began: Date.now(),
  firstMs: null,
  totalMs: null,
});

function put(run, node, ms) {
  const before = run.nodes.find((one) => one.id === node.id);
  if (before) Object.assign(before, node);
  else run.nodes.push({ ...node, ms });
}

function searchStep(run, chunk, ms) {
  const node = chunk.search_node;
  if (node) put(run, node, ms);
  switch (chunk.search_event) {
    case "drafted":
      run.doing = "judging";
      run.firstMs ??= ms;
      break;
    case "judging":
      run.votes = chunk.search_votes;
      break;
    case "root_judged":
      run.judgedMs = ms;
      run.votes = null;
      run.doing = node.accepted ? "answering" : "refining";
      break;
    case "node_added":
      run.votes = null;
      run.doing = "refining";
      break;
    case "accepted":
    case "stopped":
      run.votes = null;
      run.doing = "answering";
      run.stoppedMs = ms;
      break;
    default:
  }
}

/** Adds a chunk that came `ms` after the request. */
export function absorb(run, chunk, ms) {
  if (chunk.search_event) searchStep(run, chunk, ms);
  for (const choice of chunk.choices ?? []) {
    const { content, reasoning_content: reasoning } = choice.delta ?? {};
    if (content || reasoning) {
      run.firstMs ??= ms;
      run.doing = "answering";
    }
    run.text += content ?? "";
    run.reasoning += reasoning ?? "";
    run.finish = choice.finish_reason ?? run.finish;
  }
  if (chunk.usage) run.usage = chunk.usage;
  if (chunk.search) {
    for (const node of chunk.search.tree ?? []) put(run, node, ms);
    const { tree, ...report } = chunk.search;
    run.search = report;
  }
}

/** Reads the answer to its end; calls `changed` after every step. */
export async function follow(run, signal, changed) {
  try {
    for await (const chunk of chat(run.request, signal)) {
      absorb(run, chunk, Date.now() - run.began);
      changed(chunk);
    }
    run.status = "done";
  } catch (error) {
    run.status = error.name === "AbortError" ? "stopped" : "failed";
    if (run.status === "failed") {
      const { message, code, param, status, retryAfter, requestId } = error;
      run.error = { message, code, param, status, retryAfter, requestId };
    }
  }
  run.totalMs = Date.now() - run.began;
  run.doing = null;
  run.votes = null;
  changed();
}

/** A finished answer from the report of a kept search. */
export function keptRun(report) {
  const { tree = [], ...search } = report;
  const nodes = tree.map((node) => ({ ...node }));
  const run = { ...newRun("searched", null), status: "done", doing: null, nodes, search, totalMs: report.elapsed_ms };
  return { ...run, text: nodes[bestNode(run)]?.text ?? "" };
}

/** The id of the answer's node, or of the best one so far; null before the first. */
export function bestNode(run) {
  if (run.search?.best !== undefined) return run.search.best;
  let best = null;
  for (const node of run.nodes) {
    if (!best || (node.value ?? -1) > (best.value ?? -1)) best = node;
  }
  return best?.id ?? null;
}

/** The ids on the way from a node to its draft. */
export function path(run, id) {
  const way = new Set();
  for (let node = run.nodes.find((one) => one.id === id); node && !way.has(node.id);) {
    way.add(node.id);
    node = run.nodes.find((one) => one.id === node.parent);
  }
  return way;
}

/** What is shown as the answer: what was streamed, else the text of the best node so far. */
export const answerText = (run) => run.text || run.nodes.find((node) => node.id === bestNode(run))?.text || "";
