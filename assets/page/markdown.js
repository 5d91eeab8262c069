// Shows a model's Markdown. A model's text is not to be trusted: only the elements that are made here can come out of it,
// every text is a text node, and links lead to web and mail addresses only.

import { h } from "./dom.js";

/** Longer paragraphs are shown as they are. */
const LONGEST = 20_000;
/** Nesting of blocks and of emphasis. */
const DEEPEST = 6;

const SAFE_LINK = /^(?:https?:\/\/|mailto:)/i;
const LINK = /\[([^\]\n]{1,500})\]\(\s*<?([^()\s<>]{1,2000}(?:\([^()\s]*\))?)>?(?:\s+"[^"\n]*")?\s*\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]}]/y;
const ESCAPE = /\\([\\`*_{}[\]()#+\-.!|~<>])/y;

function at(pattern, text, index) {
  pattern.lastIndex = index;
  return pattern.exec(text);
}

function link(address, children) {
  if (!SAFE_LINK.test(address)) return h("span", {}, children);
  return h("a", { href: address, rel: "noopener noreferrer nofollow", target: "_blank" }, children);
}

/** Where emphasis that opens at `index` with this mark closes; null if it cannot open here, -1 if nothing after it closes. */
function closing(text, index, mark) {
  const start = index + mark.length;
  if (/\s/.test(text[start] ?? " ")) return null;
  if (mark[0] === "_" && /[\p{L}\p{N}]/u.test(text[index - 1] ?? " ")) return null;
  for (let end = text.indexOf(mark, start + 1); end !== -1; end = text.indexOf(mark, end + 1)) {
    const after = text[end + mark.length] ?? " ";
    const longer = mark.length === 1 && (after === mark || text[end - 1] === mark);
    const inside = mark[0] === "_" && /[\p{L}\p{N}]/u.test(after);
    if (!longer && !inside && !/\s/.test(text[end - 1]) && text[end - 1] !== "\\") return end;
  }
  return -1;
}

const EMPHASIS = [["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];

function inline(text, depth = 0) {
  if (text.length > LONGEST || depth > DEEPEST) return [text];
  const out = [];
  const never = new Set();
  let plain = "";
  let index = 0;
  const put = (node, next) => {
    if (plain) out.push(plain);
    plain = "";
    out.push(node);
    index = next;
  };
  scan: while (index < text.length) {
    const char = text[index];
    if (char === "\n") {
      put(h("br"), index + 1);
      continue;
    }
    const escaped = char === "\\" && at(ESCAPE, text, index);
    if (escaped) {
      plain += escaped[1];
      index += 2;
      continue;
    }
    if (char === "`") {
      const ticks = /`+/y;
      const [mark] = at(ticks, text, index);
      const end = text.indexOf(mark, index + mark.length);
      if (end > index) {
        put(h("code", {}, text.slice(index + mark.length, end).replace(/^ (.*) $/s, "$1")), end + mark.length);
      } else {
        plain += mark;
        index += mark.length;
      }
      continue;
    }
    const linked = char === "[" && at(LINK, text, index);
    if (linked) {
      put(link(linked[2], inline(linked[1], depth + 1)), index + linked[0].length);
      continue;
    }
    const address = char === "h" && at(ADDRESS, text, index);
    if (address) {
      put(link(address[0], [address[0]]), index + address[0].length);
      continue;
    }
    for (const [mark, name] of EMPHASIS) {
      if (char !== mark[0] || never.has(mark) || !text.startsWith(mark, index)) continue;
      const end = closing(text, index, mark);
      if (end !== null && end !== -1) {
        put(h(name, {}, inline(text.slice(index + mark.length, end), depth + 1)), end + mark.length);
        continue scan;
      }
      // What closes does not depend on where it opened: later marks of the kind are not searched for again.
      if (end === -1) never.add(mark);
    }
    plain += char;
    index += 1;
  }
  if (plain) out.push(plain);
  return out;
}

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:\s+|$)/;
const DELIMITERS = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

function fence(lines, index) {
  const [, mark, language] = FENCE.exec(lines[index]);
  const close = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  let end = index + 1;
  while (end < lines.length && !close.test(lines[end])) end += 1;
  const code = h("code", {}, lines.slice(index + 1, end).join("\n"));
  const label = language ? `Code in ${language}` : "Code";
  return [h("pre", { tabindex: "0", role: "region", "aria-label": label }, code), end + 1];
}

function list(lines, index, depth) {
  const [, , first] = ITEM.exec(lines[index]);
  const ordered = /\d/.test(first);
  const items = [];
  let end = index;
  let loose = false;
  while (end < lines.length) {
    const found = ITEM.exec(lines[end]);
    if (!found || /\d/.test(found[2]) !== ordered || RULE.test(lines[end])) break;
    const indent = found[0].length;
    const own = [lines[end].slice(indent)];
    end += 1;
    while (end < lines.length) {
      const line = lines[end];
      const inner = line.length - line.trimStart().length;
      if (line.trim() === "") {
        const next = lines[end + 1] ?? "";
        if (next.trim() === "" || (next.length - next.trimStart().length < 2 && !ITEM.test(next))) break;
        if (next.length - next.trimStart().length < 2) {
          loose = true;
          end += 1;
          break;
        }
      } else if (inner < 2 && (ITEM.test(line) || startsBlock(line))) {
        break;
      }
      own.push(line.slice(Math.min(inner, indent)));
      end += 1;
    }
    const content = blocks(own, depth + 1);
    const tight = content.length > 0 && content[0].nodeName === "P" && !loose;
    items.push(h("li", {}, tight ? [...content[0].childNodes, ...content.slice(1)] : content));
  }
  const start = ordered ? Number.parseInt(first, 10) : 1;
  return [h(ordered ? "ol" : "ul", { start: ordered && start !== 1 ? String(start) : null }, items), end];
}

function table(lines, index) {
  const head = cells(lines[index]);
  let end = index + 2;
  const rows = [];
  while (end < lines.length && lines[end].includes("|") && lines[end].trim() !== "") {
    const row = cells(lines[end]);
    rows.push(h("tr", {}, head.map((_, column) => h("td", {}, inline(row[column] ?? "")))));
    end += 1;
  }
  const header = h("tr", {}, head.map((cell) => h("th", { scope: "col" }, inline(cell))));
  const inside = h("table", {}, h("thead", {}, header), h("tbody", {}, rows));
  return [h("div", { class: "scrolls", tabindex: "0", role: "region", "aria-label": "Table" }, inside), end];
}

const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
const isTable = (lines, index) => lines[index].includes("|") && DELIMITERS.test(lines[index + 1] ?? "") && lines[index + 1].includes("-");

function blocks(lines, depth) {
  if (depth > DEEPEST) return [h("p", {}, lines.join("\n"))];
  const out = [];
  let index = 0;
  const put = ([node, next]) => {
    out.push(node);
    index = next;
  };
  while (index < lines.length) {
    const line = lines[index];
    const heading = HEADING.exec(line);
    if (line.trim() === "") {
      index += 1;
    } else if (FENCE.test(line)) {
      put(fence(lines, index));
    } else if (heading) {
      // The page's own headings come first: an answer's begin at the fourth level.
      const level = Math.min(6, heading[1].length + 3);
      put([h(`h${level}`, {}, inline(heading[2])), index + 1]);
    } else if (RULE.test(line)) {
      put([h("hr"), index + 1]);
    } else if (QUOTE.test(line)) {
      let end = index;
      while (end < lines.length && QUOTE.test(lines[end])) end += 1;
      const quoted = lines.slice(index, end).map((one) => one.replace(QUOTE, ""));
      put([h("blockquote", {}, blocks(quoted, depth + 1)), end]);
    } else if (ITEM.test(line)) {
      put(list(lines, index, depth));
    } else if (isTable(lines, index)) {
      put(table(lines, index));
    } else {
      let end = index + 1;
      while (end < lines.length && lines[end].trim() !== "" && !startsBlock(lines[end]) && !isTable(lines, end)) end += 1;
      put([h("p", {}, inline(lines.slice(index, end).join("\n"))), end]);
    }
  }
  return out;
}

/** The elements that show this Markdown. */
export const markdown = (text) => blocks(text.replaceAll("\r\n", "\n").split("\n"), 0);
