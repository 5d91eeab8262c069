// Draws a search's tree: a card for every node, coloured by its value, and lines from each answer to what it became.
// Cards are kept from one drawing to the next, so that focus stays and new ones can be seen to arrive.

import { label } from "./checks.js";
import { plural, value } from "./costs.js";
import { changes } from "./diff.js";
import { h, svg } from "./dom.js";
import { neighbour, outline } from "./outline.js";
import { bestNode, path } from "./run.js";

/** More marks than these are counted instead. */
const MOST_MARKS = 9;

/** One mark for the rules that were found in the same words: "exactly 3 sentences" is two rules. */
function merged(all) {
  const byWords = new Map();
  for (const mark of all) {
    const before = byWords.get(mark.words);
    if (before) before.holds &&= mark.holds;
    else byWords.set(mark.words, mark);
  }
  return [...byWords.values()];
}

/**
 * Whether each instruction holds in a node, as far as that is known: rules first, then what the model judged, each with the
 * instruction's words.
 */
export function marks(run, node) {
  const rules = run.search?.checks ?? run.checks ?? [];
  const items = run.search?.checklist ?? [];
  const ofRules = (node.holds ?? []).map((holds, index) => ({ holds, kind: "rule", words: rules[index] ? label(rules[index]) : `rule ${index + 1}` }));
  const ofModel = (node.items ?? []).map((probability, index) => ({
    holds: probability > 0.5,
    kind: "model",
    probability,
    words: items[index]?.item ?? `item ${index + 1} of the checklist`,
  }));
  return [...merged(ofRules), ...ofModel];
}

/** What a node is. */
export function title(node) {
  if (node.depth > 0) return node.depth === 1 ? "Refinement" : `Refinement ${node.depth}`;
  return node.id === 0 ? "Draft" : "New draft";
}

/** The same in a card's room. */
function shortTitle(node) {
  return node.depth > 0 ? `Refined${node.depth > 1 ? ` ×${node.depth}` : ""}` : title(node);
}

function markRow(all) {
  if (all.length === 0) return null;
  const held = all.filter((mark) => mark.holds).length;
  if (all.length > MOST_MARKS) return h("span", { class: "marks", "aria-hidden": "true" }, `${held} of ${all.length} hold`);
  const one = ({ holds, kind, words }) =>
    h("span", { class: `mark ${holds ? "holds" : "fails"} ${kind}`, title: `${words}: ${holds ? "holds" : "fails"}` }, holds ? "✓" : "✗");
  return h("span", { class: "marks", "aria-hidden": "true" }, all.map(one));
}

function judgement(run, node) {
  if (node.value !== null && node.value !== undefined) return value(node.value);
  if (run.status !== "running") return "–";
  const { votes } = run;
  return votes && votes.yes + votes.no + votes.invalid > 0 ? `${votes.yes} yes, ${votes.no} no` : "judging …";
}

function summary(run, node) {
  const parent = run.nodes.find((one) => one.id === node.parent);
  if (!parent?.text || node.text === undefined) return node.text ?? "";
  return changes(parent.text, node.text) || "unchanged";
}

function spoken(run, node, all, best, onWay) {
  const failing = all.filter((mark) => !mark.holds).map((mark) => mark.words);
  const parent = node.parent === null || node.parent === undefined ? "" : ` of node ${node.parent}`;
  const parts = [
    `Node ${node.id}: ${title(node).toLowerCase()}${parent}`,
    `value ${judgement(run, node)}`,
    node.accepted && "accepted",
    all.length > 0 && `${plural(all.length - failing.length, "instruction")} of ${all.length} hold`,
    failing.length > 0 && `fails: ${failing.join("; ")}`,
    node.id === best ? "the answer" : onWay && "on the way to the answer",
  ];
  return parts.filter(Boolean).join(", ");
}

/** A tree in `place`; `choose` is called with the id of a node that the reader asks for. */
export class Tree {
  constructor(choose) {
    this.choose = choose;
    this.cards = new Map();
    this.lines = svg("svg", { class: "edges", "aria-hidden": "true" });
    this.canvas = h("div", { class: "tree-canvas" }, this.lines);
    this.room = h("div", { class: "tree-room" }, this.canvas);
    this.element = h("div", { class: "tree", role: "group", "aria-label": "Search tree" }, this.room);
    this.canvas.addEventListener("keydown", (event) => this.move(event));
  }

  move(event) {
    const id = Number(event.target.closest("[data-node]")?.dataset.node);
    const next = Number.isNaN(id) ? null : neighbour(this.nodes, id, event.key);
    if (next === null) return;
    event.preventDefault();
    this.cards.get(next).focus();
    this.choose(next);
  }

  draw(run, selected) {
    this.nodes = run.nodes;
    const room = this.room.clientWidth || 320;
    const { boxes, edges, width, height } = outline(run.nodes, room);
    const best = bestNode(run);
    const way = run.search || run.doing === "answering" ? path(run, best) : new Set();
    for (const [id, card] of this.cards) {
      if (boxes.has(id)) continue;
      card.remove();
      this.cards.delete(id);
    }
    for (const node of run.nodes) this.card(run, node, { box: boxes.get(node.id), best: way.size > 0 ? best : null, way, selected });
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.lines.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.lines.setAttribute("width", width);
    this.lines.setAttribute("height", height);
    this.lines.replaceChildren(...edges.map(({ from, to, d }) =>
      svg("path", { d, class: way.has(from) && way.has(to) ? "edge on-way" : "edge" })));
  }

  card(run, node, { box, best, way, selected }) {
    let card = this.cards.get(node.id);
    if (!card) {
      card = h("button", { type: "button", "data-node": String(node.id), onclick: () => this.choose(node.id) });
      this.cards.set(node.id, card);
      this.canvas.append(card);
    }
    const all = marks(run, node);
    const judged = node.value !== null && node.value !== undefined;
    const isBest = node.id === best;
    card.className = ["node", judged || "unjudged", way.has(node.id) && "on-way", isBest && "best"].filter((name) => typeof name === "string").join(" ");
    card.tabIndex = node.id === selected || (selected === null && node.id === run.nodes[0].id) ? 0 : -1;
    card.setAttribute("aria-pressed", String(node.id === selected));
    for (const [side, name] of [["x", "left"], ["y", "top"], ["width", "width"], ["height", "height"]]) card.style[name] = `${box[side]}px`;
    card.style.setProperty("--share", judged ? `${Math.round(node.value * 100)}%` : "0%");
    card.replaceChildren(
      h("span", { class: "hidden" }, spoken(run, node, all, best, way.has(node.id))),
      h("span", { class: "node-head", "aria-hidden": "true" },
        h("span", { class: "node-title" }, shortTitle(node)),
        isBest ? h("span", { class: "badge" }, "answer") : "",
        h("span", { class: "node-value" }, judgement(run, node))),
      markRow(all) ?? h("span", { class: "marks", "aria-hidden": "true" }, node.probability === undefined ? "" : `judge: ${value(node.probability)}`),
      h("span", { class: "node-text", "aria-hidden": "true" }, summary(run, node)),
    );
  }
}
