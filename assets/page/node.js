// One node of a tree in full: its text, what changed from its parent, what fails, and what was said of it.

import { seconds, value } from "./costs.js";
import { difference } from "./diff.js";
import { copyButton, h } from "./dom.js";
import { marks, title } from "./tree.js";

/** Elements that show a difference: what went is struck out, what came is underlined. */
export const differenceOf = (before, after) =>
  difference(before, after).map(({ kind, text }) => {
    if (kind === "same") return text;
    const said = kind === "added" ? "added: " : "removed: ";
    return h(kind === "added" ? "ins" : "del", {}, h("span", { class: "hidden" }, said), text);
  });

function instructions(run, node) {
  const all = marks(run, node);
  const rows = all.map(({ holds, kind, words, probability }) =>
    h("li", { class: holds ? "holds" : "fails" },
      h("span", { class: `mark ${holds ? "holds" : "fails"} ${kind}`, "aria-hidden": "true" }, holds ? "✓" : "✗"),
      h("span", {}, words, h("span", { class: "hidden" }, holds ? ": holds" : ": fails"),
        kind === "model" ? h("span", { class: "muted" }, ` · the model says ${value(probability)}`) : "")));
  // What fails and is none of the rules: an item of the judge's own, or a broken function call.
  const known = all.filter((mark) => !mark.holds).length;
  const others = known > 0 ? [] : (node.failed ?? []);
  const more = others.map((words) => h("li", { class: "fails" }, h("span", { class: "mark fails", "aria-hidden": "true" }, "✗"), h("span", {}, words)));
  return rows.length + more.length > 0 && [h("h5", {}, "Instructions"), h("ul", { class: "instructions" }, rows, more)];
}

function facts(run, node) {
  const { votes } = node;
  // Where a rule failed, the model was not asked about this answer; in a search by rules alone about none.
  const calls = run.search?.calls;
  const byRules = (node.holds ?? []).includes(false) || (calls && calls.judge + calls.score === 0);
  const cast = votes && !byRules && votes.yes + votes.no + votes.invalid > 0;
  const ofVotes = cast && `${votes.yes} yes, ${votes.no} no${votes.invalid > 0 ? `, ${votes.invalid} unreadable` : ""}`;
  const list = [
    ["Value", value(node.value)],
    ["Accepted", node.accepted ? "yes" : "no"],
    node.probability !== undefined && ["Judge's probability", value(node.probability)],
    ofVotes && ["Votes", ofVotes],
    byRules && ["Judged by", "rules alone"],
    node.ms !== undefined && ["Arrived after", seconds(node.ms)],
  ];
  return h("dl", { class: "facts" }, list.filter(Boolean).map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))));
}

/** The panel of the node `id`; empty where there is none. */
export function inspect(run, id) {
  const node = run.nodes.find((one) => one.id === id);
  if (!node) return h("p", { class: "muted" }, "Choose a node to see its text and what failed in it.");
  const parent = run.nodes.find((one) => one.id === node.parent);
  const changed = parent?.text !== undefined && node.text !== undefined;
  const from = parent ? ` of node ${parent.id}` : "";
  return h("div", { class: "node-panel", "data-shown": String(id) },
    h("h4", {}, `Node ${id}: ${title(node).toLowerCase()}${from}`),
    facts(run, node),
    changed && [h("h5", {}, "What changed from its parent"), h("p", { class: "text difference" }, differenceOf(parent.text, node.text))],
    instructions(run, node),
    node.text !== undefined && [
      h("h5", {}, "Text"),
      h("p", { class: "text" }, node.text),
      copyButton("Copy the text", () => node.text, { class: "link" }),
    ],
    node.critique && [h("h5", {}, "Critique"), h("p", { class: "text critique" }, node.critique)]);
}
