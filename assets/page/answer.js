// One side of a turn: an answer as it comes, and what can be done with it.

import { answerText, bestNode } from "./run.js";
import { count, plural, REASONS, seconds, value } from "./costs.js";
import { copyButton, h } from "./dom.js";
import { markdown } from "./markdown.js";
import { marks } from "./tree.js";

const DOING = {
  waiting: "waiting for the first word",
  drafting: "drafting",
  judging: "judging the draft",
  refining: "refining and judging",
  answering: "answering",
};

/** What an answer is doing, or how it ended, in a few words. */
export function state(run) {
  if (run.status === "running") {
    const { votes } = run;
    const cast = votes ? `, ${votes.yes} yes and ${votes.no} no so far` : "";
    return `${DOING[run.doing] ?? run.doing}${cast} …`;
  }
  if (run.status === "stopped") return "stopped";
  if (run.status === "failed") return "failed";
  if (run.search) return REASONS[run.search.stop_reason] ?? run.search.stop_reason;
  return "done";
}

function failure({ error }) {
  const wait = error.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  const hint = error.code === "deadline_exceeded" ? " The settings have a longer limit, and fewer tokens for an answer." : "";
  const about = [error.param && `field ${error.param}`, error.code, error.requestId].filter(Boolean).join(" · ");
  return h("div", { class: "problem", role: "alert" }, h("p", {}, `${error.message}${wait}${hint}`), about && h("p", { class: "muted" }, about));
}

function body(run, { isMarkdown, isOpen }) {
  const text = answerText(run);
  const isDraft = run.kind === "searched" && !run.text && text;
  const shown = isMarkdown ? markdown(text) : [h("p", { class: "text" }, text)];
  return [
    run.reasoning && h("details", { class: "reasoning", open: isOpen }, h("summary", {}, "Reasoning"), h("p", { class: "text" }, run.reasoning)),
    isDraft && h("p", { class: "note so-far" }, "Best so far:"),
    text && h("div", { class: "prose" }, shown),
    !text && run.status === "running" && h("div", { class: "waiting", "aria-hidden": "true" }, h("span"), h("span"), h("span")),
    !text && run.status === "done" && h("p", { class: "muted" }, "The answer is empty."),
    run.finish === "length" && h("p", { class: "note" }, "Cut off: the answer reached its limit of tokens."),
    run.error && failure(run),
  ];
}

/** How an answer was judged: by its own node, or by the node of the other side's tree that has the same text. */
function judged(run, other) {
  const tree = run.kind === "searched" ? run : other;
  if (!tree || run.status === "running") return { held: [] };
  const id = run.kind === "searched" ? bestNode(run) : null;
  const node = tree.nodes.find((one) => (id === null ? one.text !== undefined && one.text === run.text : one.id === id));
  return node ? { held: marks(tree, node), node } : { held: [] };
}

/** What the search's judge found of a plain answer that is also its draft. */
function verdict({ held, node }) {
  const failing = held.filter((mark) => !mark.holds).length;
  if (failing > 0) return [`${failing} of ${plural(held.length, "instruction")} ${failing === 1 ? "fails" : "fail"}`, "open"];
  return node.accepted ? ["accepted as it is", "good"] : [`not accepted: value ${value(node.value)}`, "open"];
}

function markList(all) {
  return all.length > 0 && h("ul", { class: "answer-marks", "aria-label": "Instructions" }, all.map(({ holds, words }) =>
    h("li", { class: holds ? "holds" : "fails" },
      h("span", { "aria-hidden": "true" }, holds ? "✓ " : "✗ "), words, h("span", { class: "hidden" }, holds ? " holds" : " fails"))));
}

function figures(run) {
  const { usage, search } = run;
  const parts = [
    usage && `${count(usage.completion_tokens)} tokens`,
    run.totalMs !== null && seconds(run.totalMs),
    search && `${plural(search.nodes, "step")} after the draft`,
    search && `value ${value(search.root_value)} → ${value(search.value)}`,
  ];
  return h("p", { class: "figures" }, parts.filter(Boolean).join(" · "));
}

/** One side of a turn in `element`. */
export class Answer {
  constructor(kind, actions) {
    this.actions = actions;
    this.pill = h("span", { class: "pill" });
    this.content = h("div", { class: "answer-body" });
    this.foot = h("footer", {});
    this.element = h("article", { class: `answer ${kind}`, "aria-label": kind === "plain" ? "Plain answer" : "Searched answer" },
      h("header", {}, h("h3", {}, kind === "plain" ? "Plain" : "Searched"), this.pill), this.content, this.foot);
  }

  draw(run, { other, isKept, isMarkdown, canEdit }) {
    const mood = { running: "busy", failed: "bad", stopped: "quiet" }[run.status] ?? (run.search?.accepted === false ? "open" : "good");
    this.pill.className = `pill ${run.search || run.status !== "done" ? mood : "quiet"}`;
    this.pill.textContent = run.status === "running" ? `${state(run)} ${seconds(Date.now() - run.began)}` : state(run);
    this.element.setAttribute("aria-busy", String(run.status === "running"));
    const running = run.status === "running";
    const said = JSON.stringify([run.text, answerText(run), run.reasoning, run.status, run.finish, run.error, isMarkdown]);
    if (said !== this.said) {
      this.said = said;
      const isOpen = this.content.querySelector(".reasoning")?.open;
      this.content.replaceChildren(...body(run, { isMarkdown, isOpen }).filter(Boolean));
    }
    // Buttons stay in place while an answer streams, and keep the focus.
    const { held, node } = judged(run, other);
    if (run.kind === "plain" && typeof node?.value === "number") {
      const [words, tone] = verdict({ held, node });
      this.pill.className = `pill ${tone}`;
      this.pill.textContent = words;
    }
    const shape = JSON.stringify([held, run.status, Boolean(other), other?.status, isKept, canEdit, Boolean(run.search)]);
    if (shape === this.shape) return;
    this.shape = shape;
    const { actions } = this;
    const button = (text, name, onclick) => h("button", { type: "button", class: "link", "data-action": name, onclick }, text);
    this.foot.replaceChildren(...[
      markList(held),
      !running && figures(run),
      !running && h("div", { class: "actions" }, [
        run.text && copyButton("Copy", () => run.text, { class: "link" }),
        canEdit && button("Regenerate", "again", () => actions.again(run.kind)),
        canEdit && run.kind === "plain" && !other && button("Search this answer", "search", actions.search),
        run.request && button("Code", "code", () => actions.code(run.request)),
        run.search && copyButton("Link", () => actions.link(run), { class: "link", "data-action": "link" }),
        other && answerText(run) && (isKept
          ? h("span", { class: "kept" }, "The chat continues from this answer")
          : button("Continue from this answer", "keep", () => actions.keep(run.kind))),
      ]),
    ].filter(Boolean));
  }
}
