// Which model answers, and what its reader should know of it.

import * as api from "./api.js";
import { $, h } from "./dom.js";
import { changeKey } from "./key.js";
import { current, offerModels, set } from "./options.js";

/** Tokens of an answer at most, for models that are not known to end soon; the settings can say otherwise. */
const ROOM = "512";

function notice(...children) {
  const box = h("div", { class: "notice" }, ...children);
  box.append(h("button", { type: "button", class: "link", onclick: () => box.remove() }, "Hide"));
  $("notices").append(box);
  return box;
}

/** What to know of the embedded model; the command that serves another one follows. */
export const TOY = "The model that answers is spar-tiny, a demonstration inside the program. It knows one small invented world only, "
  + "with sentences about rivers, wizards and lanterns: questions from outside of it get nonsense. For a model of your own, start the server with ";

async function served() {
  try {
    return await api.models({ quiet: true });
  } catch (error) {
    if (error.status !== 401) throw error;
    const box = notice(h("p", {}, "This server asks for an API key."), h("button", {
      type: "button",
      class: "primary",
      onclick: async () => {
        if (await changeKey()) {
          box.remove();
          await loadModels();
        }
      },
    }, "Enter the key"));
    return [];
  }
}

let version = null;

/** Whether the embedded model answers; null before that is known. */
export const isEmbedded = () => version?.embedded ?? null;

/** The name of the model that answers. */
export const modelName = () => current().model || version?.model || "model";

/** Asks the server what it serves, and shows it. */
export async function loadModels() {
  const first = version === null;
  try {
    version = await api.version();
    const [cards, judge] = await Promise.all([served(), api.judge()]);
    offerModels(cards, version, judge);
    const context = cards[0] ? ` · ${cards[0].max_model_len.toLocaleString("en")} tokens of context` : "";
    $("model-chip").textContent = `${modelName()}${version.embedded ? " · a toy model" : context}`;
    document.title = `spar: ${modelName()}`;
  } catch (error) {
    notice(h("p", { class: "problem", role: "alert" }, error.message));
    return;
  }
  if (!first) return;
  if (version.embedded) {
    // It was trained on single prompts.
    if (current().history && !current().seen) set({ history: false });
    $("model-chip").title = TOY + "spar --model DIR.";
  } else if (!current().seen) {
    set({ max_tokens: ROOM });
  }
  set({ seen: true });
}
