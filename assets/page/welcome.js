// What is shown before the first turn: what this is, and examples to start from.

import { $, h } from "./dom.js";
import { TOY } from "./models.js";

let examples = null;

/** Shows the start; `start` is called with the example that is chosen. */
export async function welcome(isEmbedded, start) {
  examples ??= await (await fetch("page/examples.json")).json();
  const offered = examples[isEmbedded ? "embedded" : "general"];
  const cards = offered.map((example) =>
    h("li", {}, h("button", { type: "button", class: "example", onclick: () => start(example) },
      h("strong", {}, example.title), h("span", { class: "example-note" }, example.note), h("span", { class: "example-prompt" }, example.prompt))));
  $("welcome").replaceChildren(...[
    h("h2", {}, "An answer that is checked before you get it"),
    h("p", { class: "lead" },
      "On the left the model answers at once. On the right the same model searches: it drafts, judges the draft against the instructions "
      + "of the prompt, and writes anew what fails. Every step can be looked at."),
    isEmbedded && h("div", { class: "notice" }, h("p", {}, TOY, h("code", {}, "spar --model DIR"), ".")),
    h("h3", {}, "Start with an example"),
    h("ul", { class: "examples" }, cards),
  ].filter(Boolean));
}
