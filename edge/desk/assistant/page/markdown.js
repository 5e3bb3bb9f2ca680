// Markdown as nodes, never as HTML text: whatever a model writes, it cannot become markup or a script.
// Pictures are shown as links: fetching one would tell another server what was asked.

import { highlight } from "./highlight.js";
import { t } from "./words.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;
const INLINE =
  /(`+)([^]*?[^`])\1(?!`)|\*\*([^\s*](?:[^]*?[^\s*])?)\*\*|__([^\s_](?:[^]*?[^\s_])?)__|\*([^\s*](?:[^*]*[^\s*])?)\*|(?<!\w)_([^\s_](?:[^_]*[^\s_])?)_(?!\w)|~~([^~]+)~~|!?\[([^\]]*)\]\(<?([^\s)>]+)>?(?:\s+"[^"]*")?\)|(https?:\/\/[^\s<>()]*[^\s<>().,;:!?'"])|\\([\\`*_{}[\]()#+\-.!~|>])/;
const SAFE = /^(?:https?:|mailto:)/i;
const DEEPEST = 12;

function make(tag, ...children) {
  const element = document.createElement(tag);
  element.append(...children);
  return element;
}

/** Return the text's blocks as nodes. */
export function render(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const nodes = [];
  for (let i = 0; i < lines.length; ) {
    const [node, next] = depth > DEEPEST ? [make("p", text), lines.length] : block(lines, i, depth);
    if (node) nodes.push(node);
    i = next;
  }
  return nodes;
}

function block(lines, i, depth) {
  const line = lines[i];
  if (!line.trim()) return [null, i + 1];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, i, fence);
  const heading = HEADING.exec(line);
  // The page's own headings come first: an answer's begin one level below them.
  if (heading) return [make(`h${Math.min(6, heading[1].length + 2)}`, ...inline(heading[2])), i + 1];
  if (RULE.test(line)) return [make("hr"), i + 1];
  if (QUOTE.test(line)) return quoted(lines, i, depth);
  if (ITEM.test(line)) return list(lines, i, depth);
  if (line.includes("|") && DIVIDER.test(lines[i + 1] ?? "") && lines[i + 1].includes("-")) return table(lines, i);
  return paragraph(lines, i);
}

function fenced(lines, i, [, mark, language]) {
  const close = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  const code = [];
  let j = i + 1;
  while (j < lines.length && !close.test(lines[j])) code.push(lines[j++]);
  return [codeBlock(code.join("\n"), language), j + 1];
}

function codeBlock(code, language) {
  const button = make("button", t("copy"));
  button.type = "button";
  button.className = "copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    button.textContent = t("copied");
    setTimeout(() => (button.textContent = t("copy")), 1500);
  });
  const pre = make("pre", make("code", ...highlight(code, language)));
  pre.tabIndex = 0; // what scrolls must be reachable by keyboard
  const figure = make("figure", make("figcaption", make("span", language || "text"), button), pre);
  figure.className = "code";
  return figure;
}

function quoted(lines, i, depth) {
  const inner = [];
  for (; i < lines.length && QUOTE.test(lines[i]); i++) inner.push(QUOTE.exec(lines[i])[1]);
  return [make("blockquote", ...render(inner.join("\n"), depth + 1)), i];
}

function list(lines, i, depth) {
  const [, indent, marker] = ITEM.exec(lines[i]);
  const ordered = /\d/.test(marker);
  const root = make(ordered ? "ol" : "ul");
  if (ordered && Number.parseInt(marker, 10) !== 1) root.start = Number.parseInt(marker, 10);
  while (i < lines.length) {
    const item = ITEM.exec(lines[i]);
    if (!item || item[1].length !== indent.length || /\d/.test(item[2]) !== ordered) break;
    const inner = [item[3]];
    const width = indent.length + 2;
    for (i++; i < lines.length && belongs(lines, i, indent.length); i++) inner.push(lines[i].slice(Math.min(width, lines[i].search(/\S|$/))));
    root.append(listItem(inner, depth));
  }
  return [root, i];
}

function belongs(lines, i, indent) {
  const line = lines[i];
  if (!line.trim()) return /^\s+\S/.test(lines[i + 1] ?? "") && lines[i + 1].search(/\S/) > indent;
  const item = ITEM.exec(line);
  if (item) return item[1].length > indent;
  return line.search(/\S/) > indent || (Boolean(lines[i - 1].trim()) && !FENCE.test(line) && !HEADING.test(line) && !RULE.test(line) && !QUOTE.test(line));
}

function listItem(inner, depth) {
  const nodes = render(inner.join("\n"), depth + 1);
  const only = nodes[0]?.tagName === "P" ? [...nodes[0].childNodes] : nodes.slice(0, 1);
  return make("li", ...only, ...nodes.slice(1));
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function table(lines, i) {
  const row = (tag, line) => make("tr", ...cells(line).map((cell) => make(tag, ...inline(cell))));
  const head = make("thead", row("th", lines[i]));
  const body = make("tbody");
  for (i += 2; i < lines.length && lines[i].includes("|") && lines[i].trim(); i++) body.append(row("td", lines[i]));
  const frame = make("div", make("table", head, body));
  frame.className = "table";
  frame.tabIndex = 0;
  return [frame, i];
}

function paragraph(lines, i) {
  const taken = [];
  while (i < lines.length && lines[i].trim() && !(taken.length && starts(lines[i]))) taken.push(lines[i++]);
  const nodes = taken.flatMap((line, n) => {
    const hard = / {2,}$|\\$/.test(line) && n < taken.length - 1;
    const text = inline(line.trim().replace(/\\$/, ""));
    return hard ? [...text, make("br")] : n < taken.length - 1 ? [...text, "\n"] : text;
  });
  return [make("p", ...nodes), i];
}

function starts(line) {
  return [FENCE, HEADING, RULE, QUOTE].some((pattern) => pattern.test(line)) || /^\s*(?:[-*+]|1[.)])\s+/.test(line);
}

function inline(text, depth = 0) {
  const nodes = [];
  for (;;) {
    const found = depth > DEEPEST ? null : INLINE.exec(text);
    if (!found) {
      if (text) nodes.push(text);
      return nodes;
    }
    if (found.index) nodes.push(text.slice(0, found.index));
    nodes.push(span(found, depth + 1));
    text = text.slice(found.index + found[0].length);
  }
}

function span([whole, , code, bold, alsoBold, italic, alsoItalic, struck, label, target, bare, escaped], depth) {
  if (code !== undefined) return make("code", code.trim() || code);
  if (bold ?? alsoBold) return make("strong", ...inline(bold ?? alsoBold, depth));
  if (italic ?? alsoItalic) return make("em", ...inline(italic ?? alsoItalic, depth));
  if (struck) return make("s", ...inline(struck, depth));
  if (target !== undefined) return SAFE.test(target) ? link(target, label || target) : whole;
  if (bare) return link(bare, bare);
  return escaped ?? whole;
}

function link(target, label) {
  const anchor = make("a", label);
  anchor.href = target;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
  return anchor;
}
