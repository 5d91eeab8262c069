// The page: what its controls do, and how a turn runs.

import { checksOf, findAgain, loadKinds, look, startChecks } from "./checks.js";
import { asJson, asMarkdown, earlier, rememberTurns, restoreTurns, turns } from "./conversation.js";
import { plural, value } from "./costs.js";
import { $, announce, copy, h } from "./dom.js";
import { linked, linkTo } from "./kept.js";
import { isEmbedded, loadModels, modelName } from "./models.js";
import { current, isKeyed, messages, nextSeed, request, set, startOptions } from "./options.js";
import { follow, newRun } from "./run.js";
import { snippet } from "./snippets.js";
import { recall, recallForLong, remember, rememberForLong } from "./store.js";
import { state } from "./answer.js";
import { title } from "./tree.js";
import { TurnView } from "./turn.js";
import { welcome } from "./welcome.js";

const FRAME = 80; // milliseconds between two drawings of a turn that changes
const THEMES = ["auto", "light", "dark"];

const views = new Map();
const running = new Map(); // runs and what stops them

const base = () => new URL(".", location.href).href.replace(/\/$/, "");

// Turns on the page.

const actions = {
  again: (turn, kind) => answer(turn, kind),
  keep: (turn, kind) => {
    turn.kept = kind;
    announce(`The chat continues from the ${kind} answer.`);
    changed(turn);
  },
  code: (body) => showCode(body),
  link: (turn, run) => linkTo(turn, run),
  isMarkdown: () => current().markdown,
};

function view(turn) {
  if (!views.has(turn)) {
    for (const before of views.values()) before.fold();
    const made = new TurnView(turn, actions);
    views.set(turn, made);
    $("conversation").append(made.element);
  }
  return views.get(turn);
}

function draw(turn) {
  view(turn).draw();
  $("welcome").hidden = turns.length > 0;
}

const waiting = new Set();

/** Draws a turn soon, however often it changes until then. */
function changed(turn) {
  if (waiting.has(turn)) return;
  waiting.add(turn);
  setTimeout(() => {
    waiting.delete(turn);
    draw(turn);
    if (running.size === 0) rememberTurns();
  }, FRAME);
}

function showRunning() {
  const busy = running.size > 0;
  $("send").disabled = busy;
  $("stop").hidden = !busy;
}

/** Tells screen readers of a step. */
function tell(run, chunk) {
  const node = chunk?.search_node;
  const { search_event: event } = chunk ?? {};
  if (event === "drafted") announce("The draft is ready.");
  if (event === "root_judged" || event === "node_added") {
    const failed = node.failed ?? [];
    const fails = failed.length > 0 ? `, ${plural(failed.length, "instruction")} ${failed.length === 1 ? "fails" : "fail"}` : "";
    announce(`${title(node)} judged: value ${value(node.value)}${fails}.`);
  }
  if (run.status !== "running") announce(`${run.kind === "plain" ? "Plain" : "Searched"} answer: ${state(run)}.`);
}

/** Answers one side of a turn, anew if it was answered before. */
async function answer(turn, kind, { seed } = {}) {
  const isAgain = Boolean(turn[kind]);
  const used = seed ?? (isAgain ? nextSeed() : turn.seed);
  const conversation = messages(earlier(turn), turn.user);
  const run = newRun(kind, request(kind, conversation, used));
  turn[kind] = run;
  if (kind === "searched" || !turn.kept) turn.kept = kind;
  const stop = new AbortController();
  running.set(run, stop);
  showRunning();
  if (kind === "searched") {
    checksOf(conversation).then((checks) => {
      run.checks = checks;
      changed(turn);
    });
    view(turn).follows = true;
    view(turn).search.open = true;
  }
  const clock = setInterval(() => changed(turn), 250);
  changed(turn);
  await follow(run, stop.signal, (chunk) => {
    tell(run, chunk);
    changed(turn);
  });
  clearInterval(clock);
  running.delete(run);
  showRunning();
  // An answer that failed is none to continue from.
  const other = kind === "plain" ? "searched" : "plain";
  if (run.status === "failed" && turn.kept === kind && turn[other] && turn[other].status !== "failed") turn.kept = other;
  changed(turn);
}

async function ask(prompt, { seed = nextSeed() } = {}) {
  const turn = { user: prompt, seed, plain: null, searched: null, kept: null };
  const { sides } = current();
  turns.push(turn);
  draw(turn);
  view(turn).element.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
  announce("Asked.");
  const kinds = { plain: ["plain"], searched: ["searched"], both: ["plain", "searched"] }[sides];
  await Promise.all(kinds.map((kind) => answer(turn, kind)));
}

function stopAll() {
  for (const stop of running.values()) stop.abort();
}

function clear() {
  stopAll();
  turns.length = 0;
  views.clear();
  $("conversation").replaceChildren();
  $("welcome").hidden = false;
  rememberTurns();
  if (location.search) history.replaceState(null, "", location.pathname);
}

// Controls.

function submit() {
  const prompt = $("prompt").value;
  if (!prompt.trim() || running.size > 0) return;
  $("prompt").value = "";
  remember("prompt", null);
  fit();
  ask(prompt);
  look();
}

function fit() {
  const field = $("prompt");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, innerHeight / 3)}px`;
}

function startComposer() {
  const field = $("prompt");
  field.value = recall("prompt") ?? "";
  field.addEventListener("input", () => {
    remember("prompt", field.value);
    fit();
    look();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  $("stop").addEventListener("click", stopAll);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) stopAll();
  });
  $("new-chat").addEventListener("click", () => {
    clear();
    field.focus();
  });
  fit();
}

/** An example begins a chat of its own, with its seed: it shows the same every time. */
function startExample(example) {
  if (running.size > 0) return;
  clear();
  set({ sides: "both", budget: String(example.budget), strategy: example.strategy });
  findAgain();
  ask(example.prompt, example.seed === undefined ? {} : { seed: example.seed });
}

let shownRequest = null;

function drawCode() {
  const language = document.querySelector("[name=language]:checked").value;
  $("code").textContent = snippet(language, shownRequest, base(), isKeyed());
  const needs = { curl: "", python: "Needs the openai package: pip install openai. ", node: "Needs the openai package: npm install openai. " }[language];
  $("code-note").textContent = needs + (isKeyed() ? "Put your key into the environment variable SPAR_API_KEY." : "");
}

function showCode(body) {
  shownRequest = body;
  drawCode();
  $("code-dialog").showModal();
}

function startCode() {
  for (const radio of document.getElementsByName("language")) radio.addEventListener("change", drawCode);
  $("copy-code").addEventListener("click", async () => {
    await copy($("code").textContent);
    $("copy-code").textContent = "Copied";
    announce("Copied.");
    setTimeout(() => ($("copy-code").textContent = "Copy"), 1500);
  });
  $("copy-as").addEventListener("click", () => {
    const prompt = $("prompt").value.trim() || turns.at(-1)?.user || "Say hello.";
    const kind = current().sides === "plain" ? "plain" : "searched";
    const seed = current().seed ? nextSeed() : undefined;
    showCode(request(kind, messages(prompt === turns.at(-1)?.user ? earlier(turns.at(-1)) : earlier(), prompt), seed));
  });
}

function save(name, kind, text) {
  const address = URL.createObjectURL(new Blob([text], { type: kind }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
  $("export-dialog").close();
}

function startExport() {
  $("export").addEventListener("click", () => $("export-dialog").showModal());
  $("export-markdown").addEventListener("click", () => save("spar-chat.md", "text/markdown", asMarkdown(modelName())));
  $("export-json").addEventListener("click", () => save("spar-chat.json", "application/json", asJson(modelName())));
}

function startTheme() {
  let theme = recallForLong("theme") ?? "auto";
  const show = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    $("theme").replaceChildren("Theme", h("span", { class: "wide-only" }, `: ${theme}`));
    $("theme").setAttribute("aria-label", `Theme: ${theme}`);
  };
  $("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    rememberForLong("theme", theme);
    show();
  });
  show();
}

function showProblem(error) {
  $("notices").append(h("div", { class: "notice" }, h("p", { class: "problem", role: "alert" }, error.message)));
}

async function openLink() {
  try {
    const turn = await linked();
    if (!turn) return false;
    turns.push(turn);
    draw(turn);
    announce("The kept search is shown.");
    return true;
  } catch (error) {
    showProblem(new Error(`The search of this link cannot be shown: ${error.message}`));
    return false;
  }
}

async function start() {
  startTheme();
  startOptions();
  startComposer();
  startCode();
  startExport();
  await Promise.all([loadKinds(), loadModels()]);
  startChecks(() => messages(earlier(), $("prompt").value));
  welcome(isEmbedded(), startExample);
  if (!new URLSearchParams(location.search).has("search")) restoreTurns();
  turns.forEach(draw);
  await openLink();
  document.documentElement.dataset.ready = "";
}

start();
