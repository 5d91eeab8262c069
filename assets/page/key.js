// The API key of a server that asks for one.

import { $ } from "./dom.js";
import { recall, remember } from "./store.js";

let current = recall("key") ?? "";
let asking = null;

/** The key to show, or an empty text. */
export const key = () => current;

/** Forgets the key. */
export function forgetKey() {
  current = "";
  remember("key", null);
}

function dialog(why, signal) {
  const box = $("key-dialog");
  const field = $("key-field");
  $("key-why").textContent = why;
  field.value = "";
  box.returnValue = "cancel";
  return new Promise((resolve) => {
    const stopped = () => box.close("cancel");
    signal?.addEventListener("abort", stopped, { once: true });
    box.addEventListener("close", () => {
      signal?.removeEventListener("abort", stopped);
      const entered = box.returnValue === "use" ? field.value.trim() : "";
      field.value = "";
      if (entered) {
        current = entered;
        remember("key", entered);
      }
      resolve(entered !== "");
    }, { once: true });
    $("key-cancel").onclick = () => box.close("cancel");
    box.showModal();
    field.focus();
  });
}

/**
 * Asks for a key because `refused` was not accepted. Returns whether there is another one to try. Requests that are refused
 * at the same time share one question.
 */
export async function askForKey(refused, why, signal) {
  if (current !== refused) return current !== "";
  const text = refused ? "The key was not accepted. " : "";
  asking ??= dialog(text + why, signal).finally(() => (asking = null));
  return asking;
}

/** Asks for a key because the reader wants to give one. */
export const changeKey = () => askForKey(current, "Every request of this page will show it.");
