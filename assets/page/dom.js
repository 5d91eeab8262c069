// Makes elements. Texts become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** An HTML element: `h("button", {class: "quiet", onclick}, "Close")`. Attributes that are false or absent are left out. */
export const h = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/** An SVG element. */
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** Says something to screen readers. */
export function announce(text) {
  $("status").textContent = text;
}

/** Puts text into the clipboard; without the permission, or outside of a secure context, by a selected field. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = h("textarea", { class: "hidden", "aria-hidden": "true" });
    field.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
}

/** A button that copies and says so for a moment. */
export function copyButton(label, text, attributes = {}) {
  const button = h("button", { type: "button", class: "quiet", ...attributes }, label);
  button.addEventListener("click", async () => {
    await copy(text());
    button.textContent = "Copied";
    announce("Copied.");
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}
