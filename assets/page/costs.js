// What both sides cost, and numbers as people read them.

import { h } from "./dom.js";

/** A value between 0 and 1 with two digits. */
export const value = (number) => (number === null || number === undefined ? "–" : number.toFixed(2));

/** Milliseconds as seconds. */
export const seconds = (ms) => (ms === null || ms === undefined ? "–" : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`);

/** A whole number with its thousands apart. */
export const count = (number) => (number === undefined || number === null ? "–" : number.toLocaleString("en"));

/** A number of things: `1 node`, `2 nodes`. */
export const plural = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

/** Why a search ended, in words. */
export const REASONS = {
  accepted: "accepted",
  budget: "not accepted: the budget is spent",
  tokens: "not accepted: the token limit is reached",
  calls: "not accepted: the limit of calls is reached",
  deadline: "not accepted: out of time",
  exhausted: "not accepted: nothing is left to try",
  error: "a call failed: this is the best so far",
  judge_unreadable: "not judged: this model gives no readable verdict",
  outside_domain: "not judged: the judge does not know the words of this prompt",
  unjudged: "not judged: the time was enough for the draft only",
};

const calls = (search) => {
  const { answer, refine, judge, score } = search.calls;
  const parts = [
    answer && plural(answer, "draft"),
    refine && plural(refine, "refinement"),
    judge && plural(judge, "critique"),
    score && plural(score, "verdict"),
  ];
  return parts.filter(Boolean).join(", ");
};

function rows(plain, searched) {
  const search = searched?.search;
  const tokens = search?.tokens;
  const both = (read) => [plain ? read(plain) : null, searched ? read(searched) : null];
  const only = (text) => [null, search ? text : null];
  return [
    ["Generated tokens", ...both((run) => count(run.usage?.completion_tokens)), "all"],
    ["for drafts", ...only(count(tokens?.answer)), "part of-answer"],
    ["for refinements", ...only(count(tokens?.refine)), "part of-refine"],
    ["for critiques", ...only(count(tokens?.judge)), "part of-judge"],
    ["Tokens read to judge, without generating", ...only(count(tokens?.scored))],
    ["Prompt tokens", ...both((run) => count(run.usage?.prompt_tokens))],
    ["Model calls", plain?.usage ? "1 draft" : null, search ? calls(search) : null],
    ["Seconds until there is text", ...both((run) => seconds(run.firstMs))],
    ["until the draft is judged", ...only(seconds(searched?.judgedMs)), "part"],
    ["Seconds in all", ...both((run) => seconds(run.totalMs))],
  ];
}

function bar(label, parts, most) {
  const total = parts.reduce((sum, [, tokens]) => sum + tokens, 0);
  const pieces = parts.filter(([, tokens]) => tokens > 0).map(([kind, tokens]) => {
    const piece = h("span", { class: `piece of-${kind}` });
    piece.style.width = `${(100 * tokens) / most}%`;
    return piece;
  });
  return h("div", { class: "bar-line" }, h("span", {}, label), h("span", { class: "bar-track" }, pieces), h("span", {}, count(total)));
}

/** How many times the plain answer's cost the search had. */
function times(plain, searched) {
  const share = (read) => (read(plain) > 0 && read(searched) > 0 ? read(searched) / read(plain) : null);
  const [tokens, time] = [share((run) => run.usage?.completion_tokens), share((run) => run.totalMs)];
  if (tokens === null || time === null) return null;
  const said = (number) => number.toFixed(number < 10 ? 1 : 0);
  return h("p", { class: "note" }, `The search generated ${said(tokens)} times the tokens of the plain answer and took ${said(time)} times as long.`);
}

function bars(plain, searched) {
  const generated = plain?.usage?.completion_tokens ?? 0;
  const tokens = searched?.search?.tokens;
  const all = tokens ? tokens.answer + tokens.refine + tokens.judge : 0;
  const most = Math.max(generated, all, 1);
  const own = tokens && [["answer", tokens.answer], ["refine", tokens.refine], ["judge", tokens.judge]];
  return h("div", { class: "bars", "aria-hidden": "true" },
    plain && bar("Plain", [["answer", generated]], most), own && bar("Searched", own, most));
}

/** The table of what a turn's answers cost. */
export function costs(plain, searched) {
  const heads = [plain && "Plain", searched && "Searched"].filter(Boolean);
  const cells = ([name, left, right, kind]) => {
    const shown = [plain && (left ?? "–"), searched && (right ?? "–")].filter((cell) => cell !== null && cell !== undefined);
    return h("tr", { class: kind }, h("th", { scope: "row" }, name), shown.map((cell) => h("td", {}, cell)));
  };
  const lines = rows(plain, searched).filter(([, left, right]) => left !== null || right !== null);
  const head = h("tr", {}, h("td"), heads.map((name) => h("th", { scope: "col" }, name)));
  return h("div", { class: "costs" }, h("div", {}, bars(plain, searched), plain && searched && times(plain, searched)),
    h("table", {}, h("caption", { class: "hidden" }, "What the answers cost"), h("thead", {}, head), h("tbody", {}, lines.map(cells))));
}
