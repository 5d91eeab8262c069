// One turn of the chat: the prompt, the answers on both sides, the tree between them and what it cost.

import { Answer, state } from "./answer.js";
import { costs, plural, REASONS } from "./costs.js";
import { h } from "./dom.js";
import { inspect } from "./node.js";
import { bestNode } from "./run.js";
import { Tree } from "./tree.js";

const KINDS = ["plain", "searched"];

function treeSummary(run) {
  if (!run.search) return `The search so far: ${plural(run.nodes.length, "node")}, ${state(run)}`;
  const { search } = run;
  const depth = search.depth > 0 ? `, the answer after ${plural(search.depth, "refinement")}` : ", the answer is a draft";
  return `The search: ${plural(run.nodes.length, "node")}${depth}, ${REASONS[search.stop_reason] ?? search.stop_reason}`;
}

/** A turn's element; `actions` are what its buttons do, with the turn in front. */
export class TurnView {
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.selected = null;
    this.follows = true;
    this.answers = {};
    this.columns = h("div", { class: "sides" });
    this.tree = new Tree((id) => this.choose(id));
    this.panel = h("div", { class: "inspector", role: "region", "aria-label": "Node", tabindex: "0" });
    this.treeLabel = h("span", {});
    this.search = h("details", { class: "search-panel", open: true },
      h("summary", {}, this.treeLabel),
      h("p", { class: "note" }, "Each card is an answer that was judged. Colour and number are its value, ✓ and ✗ are the instructions, the strong line leads to the answer."),
      h("div", { class: "search-room" }, this.tree.element, this.panel));
    this.costs = h("details", { class: "cost-panel", open: true }, h("summary", {}, "What it cost"), h("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Costs" }));
    const seed = turn.seed === undefined ? null : h("span", { class: "muted" }, `seed ${turn.seed}`);
    this.element = h("article", { class: "turn", "aria-label": `Turn: ${turn.user.slice(0, 80)}` },
      h("header", { class: "asked" }, h("h2", {}, "You"), h("p", { class: "text" }, turn.user), seed), this.columns, this.search, this.costs);
    this.search.addEventListener("toggle", () => this.draw());
    new ResizeObserver(() => this.resized()).observe(this.tree.room);
  }

  resized() {
    const width = this.tree.room.clientWidth;
    if (width === this.width || width === 0) return;
    this.width = width;
    this.drawTree();
  }

  choose(id) {
    this.selected = id;
    this.follows = false;
    this.drawTree();
  }

  /** Closes what takes room, for a turn that is no longer the last. */
  fold() {
    this.search.open = false;
    this.costs.open = false;
  }

  side(kind) {
    const { turn, actions } = this;
    this.answers[kind] ??= new Answer(kind, {
      again: (which) => actions.again(turn, which),
      search: () => actions.again(turn, "searched"),
      keep: (which) => actions.keep(turn, which),
      code: actions.code,
      link: (run) => actions.link(turn, run),
    });
    return this.answers[kind];
  }

  drawTree() {
    const run = this.turn.searched;
    if (!run || run.nodes.length === 0) return;
    if (this.follows) this.selected = run.status === "running" ? run.nodes.at(-1).id : bestNode(run);
    if (!run.nodes.some((node) => node.id === this.selected)) this.selected = bestNode(run);
    this.tree.draw(run, this.selected);
    const shown = JSON.stringify([this.selected, run.nodes.find((node) => node.id === this.selected), run.search?.id, run.checks?.length]);
    if (shown === this.inspected) return;
    this.inspected = shown;
    this.panel.replaceChildren(inspect(run, this.selected));
  }

  draw() {
    const { turn } = this;
    const sides = KINDS.filter((kind) => turn[kind]);
    const elements = sides.map((kind) => this.side(kind).element);
    if (elements.some((element, index) => this.columns.children[index] !== element) || this.columns.children.length !== elements.length) {
      this.columns.replaceChildren(...elements);
      this.columns.classList.toggle("two", elements.length === 2);
    }
    for (const kind of sides) {
      const other = turn[KINDS.find((one) => one !== kind)];
      const look = { other, isKept: turn.kept === kind, isMarkdown: this.actions.isMarkdown(), canEdit: !turn.fromLink };
      this.side(kind).draw(turn[kind], look);
    }
    const run = turn.searched;
    this.search.hidden = !run || run.nodes.length === 0;
    if (!this.search.hidden) this.treeLabel.textContent = treeSummary(run);
    if (!this.search.hidden && this.search.open) this.drawTree();
    const finished = sides.some((kind) => turn[kind].usage || turn[kind].search);
    this.costs.hidden = !finished;
    if (finished) this.costs.lastChild.replaceChildren(costs(turn.plain, turn.searched));
  }
}
