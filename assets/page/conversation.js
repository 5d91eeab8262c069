// The turns of the chat, how they are remembered, and how they are exported.

import { count, REASONS, seconds, value } from "./costs.js";
import { answerText } from "./run.js";
import { recall, remember } from "./store.js";
import { title } from "./tree.js";

/** All turns, oldest first: `{user, seed, plain, searched, kept}`, where `kept` names the side that the chat continues from. */
export const turns = [];

/** Brings back what this tab remembers. What was running when it was left is shown as stopped. */
export function restoreTurns() {
  for (const turn of recall("turns") ?? []) {
    for (const run of [turn.plain, turn.searched]) {
      if (run?.status === "running") Object.assign(run, { status: "stopped", doing: null });
    }
    turns.push(turn);
  }
}

/** Remembers the turns; the oldest are left out where the browser has no room for all. */
export function rememberTurns() {
  for (let from = 0; from < turns.length; from += 1) {
    if (remember("turns", turns.slice(from))) return;
  }
  if (turns.length === 0) remember("turns", null);
}

/** The answer that the chat continues from. */
export function kept(turn) {
  const run = turn[turn.kept] ?? turn.searched ?? turn.plain;
  return run ? answerText(run) : "";
}

/** The turns before `turn`, or all, as the server takes them. */
export function earlier(turn) {
  const before = turn ? turns.slice(0, turns.indexOf(turn)) : turns;
  const answered = before.filter((one) => kept(one) !== "" && !one.fromLink);
  return answered.flatMap((one) => [{ role: "user", content: one.user }, { role: "assistant", content: kept(one) }]);
}

function treeText(run) {
  return run.nodes.map((node) => {
    const parent = node.parent === null || node.parent === undefined ? "" : ` of node ${node.parent}`;
    const failed = (node.failed ?? []).length > 0 ? `; fails: ${node.failed.join("; ")}` : "";
    return `- node ${node.id}, ${title(node).toLowerCase()}${parent}: value ${value(node.value)}${failed}\n\n  ${(node.text ?? "").replaceAll("\n", "\n  ")}`;
  }).join("\n");
}

function sideText(name, run) {
  const figures = [
    run.usage && `${count(run.usage.completion_tokens)} tokens`,
    seconds(run.totalMs),
    run.search && `${REASONS[run.search.stop_reason]}, value ${value(run.search.root_value)} → ${value(run.search.value)}`,
  ].filter(Boolean).join(", ");
  const tree = run.nodes.length > 0 ? `\n\nThe search:\n\n${treeText(run)}` : "";
  return `### ${name}\n\n${answerText(run) || run.error?.message || ""}\n\n(${figures})${tree}`;
}

/** The conversation as Markdown. */
export function asMarkdown(model) {
  const parts = turns.map((turn) => [
    `## ${turn.user}`,
    turn.plain && sideText("Plain", turn.plain),
    turn.searched && sideText("Searched", turn.searched),
  ].filter(Boolean).join("\n\n"));
  return `# Conversation with ${model}\n\n${parts.join("\n\n")}\n`;
}

/** The conversation as JSON. */
export const asJson = (model) => `${JSON.stringify({ model, turns }, null, 2)}\n`;
