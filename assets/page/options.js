// How the next answers are made: the fields of the composer and of the settings, and the request that they make.

import { anyPlanned, look, wanted } from "./checks.js";
import { $, h } from "./dom.js";
import { changeKey, forgetKey, key } from "./key.js";
import { recall, remember } from "./store.js";

const DEFAULTS = { sides: "both", budget: "8", strategy: "auto", markdown: true, history: true, system: "" };

const number = (name, label, min, max, step = 1) => ({ name, label, type: "number", min, max, step });
const choice = (name, label, ...values) => ({ name, label, type: "select", values: [["", "as the server's default"], ...values] });

const GROUPS = [
  ["Conversation", [
    { name: "model", label: "Model", type: "select", values: [] },
    { name: "system", label: "System turn", type: "textarea" },
    { name: "history", label: "Send earlier turns with each prompt", type: "checkbox" },
    { name: "markdown", label: "Show answers as Markdown", type: "checkbox" },
  ]],
  ["Sampling", [
    number("temperature", "Temperature", 0, 2, 0.05),
    number("top_p", "Top p", 0, 1, 0.05),
    number("max_tokens", "Tokens of an answer at most", 1, 100_000),
    number("seed", "Seed; empty: another one for every turn", 0, 2_147_483_647),
  ]],
  ["Judging", [
    choice("judge", "Who judges", ["both", "rules, then the model"], ["rules", "rules alone"], ["model", "the model alone"]),
    choice("judging", "How the model judges", ["score", "score: reads the probability of Yes"], ["cascade", "cascade: writes critiques where that is unsure"], ["votes", "votes: writes critiques and counts them"]),
    { name: "checklist", label: "List the instructions first, and judge them one by one", type: "checkbox" },
    number("votes", "Votes per judgement", 1, 15),
    number("threshold", "Accept above this value", 0, 0.99, 0.05),
    number("judge_tokens", "Tokens of a critique at most", 16, 4096),
    number("judge_temperature", "Temperature of critiques", 0, 2, 0.05),
  ]],
  ["Search", [
    choice("mode", "Mode", ["eager", "eager"], ["paper", "paper: the published search (breadth or depth first)"]),
    number("branch", "Refinements of one node", 1, 8),
    number("keep", "Nodes of a level that are refined", 1, 8),
    number("depth", "Refinements from draft to answer at most", 1, 16),
    number("refine_tokens", "Tokens of a refinement at most", 16, 100_000),
    number("refine_temperature", "Temperature of refinements", 0, 2, 0.05),
    number("search_max_tokens", "Tokens of the whole search at most", 1, 1_000_000),
    number("max_calls", "Model calls at most", 1, 10_000),
    number("deadline", "Seconds until the best so far is the answer", 1, 600),
  ]],
];

const FIELDS = GROUPS.flatMap(([, fields]) => fields);
const OF_SEARCH = ["judge", "judging", "mode", "votes", "threshold", "judge_tokens", "judge_temperature", "branch", "keep", "depth", "refine_tokens", "refine_temperature", "max_calls"];

let options = { ...DEFAULTS, ...recall("options") };
let defaultModel = "";

/** The options as they are set. */
export const current = () => options;

/** Sets some options and shows them. */
export function set(some) {
  options = { ...options, ...some };
  remember("options", options);
  show();
}

function show() {
  if ($("budget") !== document.activeElement) $("budget").value = options.budget;
  $("strategy").value = options.strategy;
  for (const radio of document.getElementsByName("sides")) radio.checked = radio.value === options.sides;
  $("composer").dataset.sides = options.sides;
  for (const { name, type } of FIELDS) {
    const field = $(`set-${name}`);
    // What is being typed may not be a number yet.
    if (!field || field === document.activeElement) continue;
    if (type === "checkbox") field.checked = Boolean(options[name]);
    else field.value = options[name] ?? "";
  }
}

function control({ name, type, values, min, max, step }) {
  const id = `set-${name}`;
  const changed = (event) => set({ [name]: type === "checkbox" ? event.target.checked : event.target.value });
  const attributes = { id, oninput: changed };
  if (type === "select") return h("select", attributes, values.map(([value, text]) => h("option", { value }, text)));
  if (type === "textarea") return h("textarea", { ...attributes, rows: "3" });
  if (type === "checkbox") return h("input", { ...attributes, type });
  return h("input", { ...attributes, type, min, max, step, placeholder: "as the server's default" });
}

function field(about) {
  const label = h("label", { for: `set-${about.name}` }, about.label);
  const both = about.type === "checkbox" ? [control(about), label] : [label, control(about)];
  return h("div", { class: `field ${about.type}` }, both);
}

/** Puts the fields in place. */
export function startOptions() {
  const keys = h("fieldset", {}, h("legend", {}, "API key"),
    h("div", { class: "row" },
      h("button", { type: "button", onclick: async () => { $("settings").close(); await changeKey(); } }, "Enter a key"),
      h("button", { type: "button", class: "quiet", onclick: forgetKey }, "Forget the key")));
  const groups = GROUPS.map(([title, fields]) =>
    h("fieldset", {}, h("legend", {}, title), title === "Judging" && h("p", { id: "who-judges", class: "note" }), fields.map(field)));
  const reset = h("button", { type: "button", class: "quiet", onclick: () => {
    const kept = Object.fromEntries(FIELDS.map(({ name }) => [name, undefined]));
    set({ ...kept, ...DEFAULTS });
  } }, "Reset all settings");
  $("settings-fields").replaceChildren(...groups, keys, reset);
  $("open-settings").addEventListener("click", () => $("settings").showModal());
  $("set-system").addEventListener("change", look);
  $("budget").addEventListener("input", () => set({ budget: $("budget").value }));
  $("strategy").addEventListener("change", () => set({ strategy: $("strategy").value }));
  for (const radio of document.getElementsByName("sides")) radio.addEventListener("change", () => set({ sides: radio.value }));
  show();
}

/** Offers the served models, and says which weights draft and which judge. */
export function offerModels(cards, version, judge) {
  defaultModel = cards[0]?.id ?? version.model;
  const select = $("set-model");
  const names = cards.length > 0 ? cards.map((card) => card.id) : [version.model];
  select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  if (!names.includes(options.model)) options.model = defaultModel;
  const { actor, refiner } = version.generation;
  const same = actor === refiner ? "the same weights judge and refine" : `${refiner} judges and refines`;
  const found = {
    able: "When the server started, the judge distinguished a right answer from a wrong one.",
    indifferent: "This judge rated a wrong answer no lower than a right one: leave what you can to rules.",
    unreadable: "No verdict can be read from this model: leave the judging to rules.",
  }[judge] ?? "";
  $("who-judges").textContent = `${actor} drafts, ${same}: the pair that this server serves. ${found}`;
  show();
}

/** The turns that would be sent: the system's, `earlier` ones if they are wanted, and the prompt. */
export function messages(earlier, prompt) {
  const system = options.system.trim() ? [{ role: "system", content: options.system }] : [];
  return [...system, ...(options.history ? earlier : []), { role: "user", content: prompt }];
}

const filled = (value) => value !== undefined && value !== "" && value !== null;

function search() {
  const asked = { strategy: options.strategy, checks: wanted() };
  for (const name of OF_SEARCH) {
    if (filled(options[name])) asked[name] = FIELDS.find((one) => one.name === name).type === "number" ? Number(options[name]) : options[name];
  }
  if (options.checklist) asked.checklist = true;
  if (filled(options.search_max_tokens)) asked.max_tokens = Number(options.search_max_tokens);
  if (filled(options.deadline)) asked.deadline_ms = 1000 * Number(options.deadline);
  // The model alone judges without rules, and the server refuses both together.
  if (asked.judge === "model") asked.checks = "off";
  if (asked.judge === "both" && !anyPlanned()) delete asked.judge;
  return { ...asked, trace: "full", events: true };
}

/** The request of one side. */
export function request(kind, turns, seed) {
  const body = { model: options.model || defaultModel, messages: turns };
  for (const name of ["temperature", "top_p", "max_tokens"]) if (filled(options[name])) body[name] = Number(options[name]);
  if (seed !== undefined) body.seed = seed;
  if (kind === "searched") Object.assign(body, { search_budget: Number(options.budget) || 8, search: search() });
  return { ...body, stream: true, stream_options: { include_usage: true } };
}

/** The seed of the next turn: the one that is set, else another one each time. Both sides draw with it. */
export const nextSeed = () => (filled(options.seed) ? Number(options.seed) : Math.floor(Math.random() * 2 ** 31));

/** Whether requests show a key, for the code to copy. */
export const isKeyed = () => key() !== "";
