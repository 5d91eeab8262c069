// The checks of the next search: found by the server in the prompt's own words, and edited by the reader.

import * as api from "./api.js";
import { $, announce, h } from "./dom.js";
import { recall, remember } from "./store.js";

const PAUSE = 350; // milliseconds after the last key until the server is asked

let kinds = {};
let mode = "auto"; // auto | off | list
let found = [];
let list = [];
let note = "";
let timer = null;
let asked = null;
let conversation = () => [];

/** The names of kinds of checks, for labels. */
export async function loadKinds() {
  kinds = await (await fetch("page/kinds.json")).json();
  $("check-ids").replaceChildren(...Object.entries(kinds).map(([id, kind]) => h("option", { value: id }, kind.name)));
}

const shown = (argument) => (Array.isArray(argument) ? argument.join(", ") : String(argument));

/** A check in a few words: those of the prompt where it was found there. */
export function label(check) {
  if (check.words) return check.words;
  const name = kinds[check.id]?.name ?? check.id;
  const values = Object.values(check.kwargs ?? {}).map(shown).filter(Boolean);
  return values.length > 0 ? `${name}: ${values.join(" ")}` : name;
}

/** The checks of the next search. */
export const planned = () => ({ auto: found, off: [], list })[mode];

/** The field `search.checks` of the next search. */
export const wanted = () => (mode === "list" ? list.map(({ id, kwargs }) => ({ id, kwargs })) : mode);

/** Whether rules could decide the next search. */
export const anyPlanned = () => planned().length > 0;

function keep() {
  remember("checks", { mode, list });
  draw();
}

function edit() {
  if (mode === "list") return;
  list = found.map((check) => ({ ...check }));
  mode = "list";
}

/** Goes back to the checks that the server finds. */
export function findAgain() {
  mode = "auto";
  keep();
  look();
}

/** Asks the server what it would check in `messages`. */
async function findIn(messages) {
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  try {
    const checks = await api.checks(messages, signal);
    if (signal.aborted) return;
    [found, note] = [checks, ""];
  } catch (error) {
    if (error.name === "AbortError") return;
    found = [];
    note = error.status === 401 ? "The server asks for an API key before it looks for checks." : error.message;
  }
  draw();
}

/** The checks that a search of `messages` will have, for the labels of its marks. */
export async function checksOf(messages) {
  if (mode !== "auto") return [...planned()];
  try {
    return await api.checks(messages);
  } catch {
    // The search's own report will name them.
    return [];
  }
}

/** Looks for checks soon: the prompt has changed. */
export function look() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const messages = conversation();
    if (messages.at(-1)?.content.trim()) {
      if (mode === "auto") findIn(messages);
    } else {
      asked?.abort();
      [found, note] = [[], ""];
      draw();
    }
  }, PAUSE);
}

function chip(check, index) {
  const text = label(check);
  const open = h("button", { type: "button", class: "chip-open", title: check.id, onclick: () => editor(index) }, text);
  const away = h("button", {
    type: "button",
    class: "chip-away",
    "aria-label": `Remove the check: ${text}`,
    onclick: () => {
      edit();
      list.splice(index, 1);
      announce(`Removed the check ${text}.`);
      keep();
      ($("checks").querySelectorAll(".chip-away")[index] ?? $("checks").querySelector(".add"))?.focus();
    },
  }, "×");
  return h("span", { class: "check-chip" }, open, away);
}

function draw() {
  const box = $("checks");
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  const checks = planned();
  const state = {
    auto: checks.length > 0 ? "Checks found:" : note || "Checks: rules that the prompt states are found as you type",
    off: "No checks: the model judges alone.",
    list: checks.length > 0 ? "Checks, edited:" : "No checks: all were removed.",
  }[mode];
  const button = (name, text, onclick, extra = "") =>
    h("button", { type: "button", class: `link ${extra}`, "data-name": name, onclick }, text);
  box.replaceChildren(...[
    h("span", { class: "checks-state" }, state),
    ...checks.map(chip),
    button("add", "+ Add", () => editor(null), "add"),
    mode !== "auto" && button("again", "Find them again", findAgain),
    mode !== "off" && button("off", "Turn off", () => {
      mode = "off";
      keep();
    }),
  ].filter(Boolean));
  if (focused) (box.querySelector(`[data-name="${focused}"]`) ?? box.querySelector("button"))?.focus();
}

const RELATIONS = ["at least", "less than"];

function field(name, value) {
  const id = `check-${name}`;
  const said = name.replaceAll("_", " ");
  let input;
  if (/relation$/.test(name)) {
    input = h("select", { id }, RELATIONS.map((one) => h("option", { selected: one === value }, one)));
  } else {
    input = h("input", { id, type: typeof value === "number" ? "number" : "text", step: "any" });
    input.value = shown(value);
  }
  input.dataset.argument = name;
  input.dataset.type = Array.isArray(value) ? "list" : typeof value;
  const hint = Array.isArray(value) ? `${said}, separated by commas` : said;
  return h("div", { class: "field" }, h("label", { for: id }, hint), input);
}

function argumentsOf(box) {
  const read = {
    number: (text) => Number(text),
    list: (text) => text.split(",").map((item) => item.trim()).filter(Boolean),
  };
  const inputs = [...box.querySelectorAll("[data-argument]")];
  return Object.fromEntries(inputs.map((input) => [input.dataset.argument, (read[input.dataset.type] ?? String)(input.value)]));
}

function editor(index) {
  const check = index === null ? { id: "", kwargs: {} } : planned()[index];
  const [dialog, id, fields] = [$("check-dialog"), $("check-id"), $("check-fields")];
  const fill = (kwargs) => {
    $("check-name").textContent = kinds[id.value]?.name ?? (id.value ? "An id that the server may know." : "");
    if (id.value in kinds || Object.keys(kwargs).length > 0) {
      fields.replaceChildren(...Object.entries(kwargs).map(([name, value]) => field(name, value)));
      return;
    }
    const raw = h("input", { id: "check-raw", type: "text", "data-raw": "" });
    raw.value = "{}";
    fields.replaceChildren(h("div", { class: "field" }, h("label", { for: "check-raw" }, "arguments as JSON"), raw));
  };
  $("check-title").textContent = index === null ? "Add a check" : "Edit the check";
  $("check-problem").textContent = "";
  id.value = check.id;
  fill(check.kwargs);
  id.oninput = () => fill(id.value === check.id ? check.kwargs : (kinds[id.value]?.kwargs ?? {}));
  $("check-cancel").onclick = () => dialog.close();
  $("check-form").onsubmit = (submitted) => {
    submitted.preventDefault();
    const raw = fields.querySelector("[data-raw]");
    let kwargs;
    try {
      kwargs = raw ? JSON.parse(raw.value) : argumentsOf(fields);
    } catch {
      $("check-problem").textContent = "The arguments are not JSON, such as {\"num_words\": 9}.";
      return;
    }
    if (!/^[\w-]+:[\w-]+$/.test(id.value.trim())) {
      $("check-problem").textContent = "Choose a kind, such as punctuation:no_comma.";
      return;
    }
    edit();
    const kept = { id: id.value.trim(), kwargs };
    if (index === null) list.push(kept);
    else list[index] = kept;
    dialog.close();
    keep();
  };
  dialog.showModal();
}

/** Shows the checks; `messages` returns the conversation as it would be sent. */
export function startChecks(messages) {
  conversation = messages;
  const before = recall("checks");
  if (before) ({ mode, list } = before);
  draw();
  look();
}
