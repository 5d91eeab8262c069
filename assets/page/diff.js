// The difference of two texts, word by word.

/** Cells of the table of common subsequences at most; longer changes are shown as one. */
const MOST_CELLS = 4_000_000;

/** A text's words, and the spaces and marks between them. */
export const words = (text) => text.match(/[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*|\s+|[^\p{L}\p{N}\s]/gu) ?? [];

function commonLengths(before, after) {
  const width = after.length + 1;
  const lengths = new Uint32Array((before.length + 1) * width);
  for (let i = before.length - 1; i >= 0; i -= 1) {
    for (let j = after.length - 1; j >= 0; j -= 1) {
      const at = i * width + j;
      lengths[at] = before[i] === after[j]
        ? lengths[at + width + 1] + 1
        : Math.max(lengths[at + width], lengths[at + 1]);
    }
  }
  return lengths;
}

function middle(before, after) {
  const parts = [];
  if ((before.length + 1) * (after.length + 1) > MOST_CELLS) {
    return [...before.map((text) => ["removed", text]), ...after.map((text) => ["added", text])];
  }
  const lengths = commonLengths(before, after);
  const width = after.length + 1;
  let [i, j] = [0, 0];
  while (i < before.length || j < after.length) {
    if (i < before.length && j < after.length && before[i] === after[j]) {
      parts.push(["same", before[i]]);
      i += 1;
      j += 1;
    } else if (j === after.length || (i < before.length && lengths[(i + 1) * width + j] >= lengths[i * width + j + 1])) {
      parts.push(["removed", before[i]]);
      i += 1;
    } else {
      parts.push(["added", after[j]]);
      j += 1;
    }
  }
  return parts;
}

const isSpace = ([, text]) => /^\s+$/.test(text);

/**
 * Collects each change between two words that stay into what went and what came. A space between two changed words belongs
 * to the change, so that it reads as one.
 */
function grouped(parts) {
  const groups = [];
  let change = null;
  const flush = () => {
    if (!change) return;
    if (change.removed) groups.push({ kind: "removed", text: change.removed });
    if (change.added) groups.push({ kind: "added", text: change.added });
    change = null;
  };
  parts.forEach((part, index) => {
    const [kind, text] = part;
    if (kind !== "same") {
      change ??= { removed: "", added: "" };
      change[kind] += text;
      return;
    }
    const next = parts[index + 1];
    if (change && isSpace(part) && next && next[0] !== "same") {
      change.removed += change.removed ? text : "";
      change.added += change.added ? text : "";
      return;
    }
    flush();
    const last = groups.at(-1);
    if (last?.kind === "same") last.text += text;
    else groups.push({ kind: "same", text });
  });
  flush();
  return groups;
}

/** How `before` became `after`: parts with a `kind` of `same`, `removed` or `added`, and their `text`. */
export function difference(before, after) {
  const [from, to] = [words(before), words(after)];
  let start = 0;
  while (start < from.length && start < to.length && from[start] === to[start]) start += 1;
  let end = 0;
  while (end < from.length - start && end < to.length - start && from.at(-1 - end) === to.at(-1 - end)) end += 1;
  const same = (list) => list.map((text) => ["same", text]);
  return grouped([
    ...same(from.slice(0, start)),
    ...middle(from.slice(start, from.length - end), to.slice(start, to.length - end)),
    ...same(from.slice(from.length - end)),
  ]);
}

/** The first changes in short, such as `forest → lantern`; an empty text where nothing changed. */
export function changes(before, after) {
  const parts = difference(before, after);
  const said = [];
  for (let index = 0; index < parts.length; index += 1) {
    const { kind, text } = parts[index];
    const shown = text.trim();
    if (kind === "removed" && parts[index + 1]?.kind === "added") {
      index += 1;
      said.push(`${shown} → ${parts[index].text.trim()}`);
    } else if (kind !== "same" && shown) {
      said.push(`${kind === "added" ? "+" : "−"} ${shown}`);
    }
  }
  return said.join(", ");
}
