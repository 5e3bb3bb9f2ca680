// Markdown as nodes, never as HTML text: whatever a model writes, it cannot become markup or a script.
// Pictures are shown as links: fetching one would tell another server what was asked.

import { highlight } from "./highlight.js";
import { t } from "./words.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}(?:(?:\*\s*){3,}|(?:-\s*){3,}|(?:_\s*){3,})$/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const QUOTE = /^ {0,3}>\s?(.*)$/;
const TARGET = /\]\(<?([^\s)>]{1,2048})>?(?:\s{1,9}"[^"]{0,999}")?\)/y;
const ADDRESS = /(https?:\/\/.)[^\s<>()]*/y;
const ESCAPABLE = "\\`*_{}[]()#+-.!~|>";
const SAFE = /^(?:https?:|mailto:)/i;
const DEEPEST = 12;

function make(tag, ...children) {
  const element = document.createElement(tag);
  for (const child of children.flat()) element.append(child); // not spread: a call takes only so many
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
  if (heading) return [make(`h${Math.min(6, heading[1].length + 2)}`, inline(withoutHashes(heading[2]))), i + 1];
  if (RULE.test(line)) return [make("hr"), i + 1];
  if (QUOTE.test(line)) return quoted(lines, i, depth);
  if (ITEM.test(line)) return list(lines, i, depth);
  if (line.includes("|") && isDivider(lines[i + 1] ?? "")) return table(lines, i);
  return paragraph(lines, i);
}

function fenced(lines, i, [, mark, language]) {
  const code = [];
  let j = i + 1;
  while (j < lines.length && !closes(lines[j], mark)) code.push(lines[j++]);
  return [codeBlock(code.join("\n"), language), j + 1];
}

function closes(line, mark) {
  const found = /^ {0,3}(`+|~+)\s*$/.exec(line);
  return found !== null && found[1][0] === mark[0] && found[1].length >= mark.length;
}

function withoutHashes(text) {
  let end = text.trimEnd().length;
  while (end && text[end - 1] === "#") end--;
  return text.slice(0, end).trimEnd();
}

function isDivider(line) {
  const bare = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return bare.includes("-") && bare.split("|").every((cell) => /^:?-+:?$/.test(cell.trim()));
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
  const pre = make("pre", make("code", highlight(code, language)));
  pre.tabIndex = 0; // what scrolls must be reachable by keyboard
  const figure = make("figure", make("figcaption", make("span", language || "text"), button), pre);
  figure.className = "code";
  return figure;
}

function quoted(lines, i, depth) {
  const inner = [];
  for (; i < lines.length && QUOTE.test(lines[i]); i++) inner.push(QUOTE.exec(lines[i])[1]);
  return [make("blockquote", render(inner.join("\n"), depth + 1)), i];
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
  return make("li", only, nodes.slice(1));
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function table(lines, i) {
  const row = (tag, line) => make("tr", cells(line).map((cell) => make(tag, inline(cell))));
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
    const hard = (line.endsWith("  ") || line.endsWith("\\")) && n < taken.length - 1;
    const text = inline(line.trim().replace(/\\$/, ""));
    return hard ? [...text, make("br")] : n < taken.length - 1 ? [...text, "\n"] : text;
  });
  return [make("p", nodes), i];
}

function starts(line) {
  return [FENCE, HEADING, RULE, QUOTE].some((pattern) => pattern.test(line)) || /^\s*(?:[-*+]|1[.)])\s+/.test(line);
}

function inline(text, depth = 0) {
  return depth > DEEPEST ? (text ? [text] : []) : new Inline(text, depth + 1).nodes();
}

// Each kind of span is looked for by its sign. What is found wanting once (a closing sign, the next
// bracket, a link's end) is remembered, so that no text is read again and again: the time a text
// takes is in proportion to its length, whatever stands in it.
class Inline {
  constructor(text, depth) {
    this.text = text;
    this.depth = depth;
    this.closed = new Set(); // signs that have no closing one behind here
    this.bracket = -1; // the next closing bracket
    this.targets = new Map(); // by the place of a closing bracket: the target behind it
    this.runs = null; // of backticks, by their length: the places where one begins, the last first
  }

  nodes() {
    const nodes = [];
    const sign = /[`*_~![h\\]/g;
    let told = 0;
    for (let at = 0; ; ) {
      sign.lastIndex = at;
      const place = sign.exec(this.text)?.index;
      if (place === undefined) break;
      const [node, end] = this.span(place) ?? [null, place + this.width(place)];
      if (node !== null) {
        if (place > told) nodes.push(this.text.slice(told, place));
        nodes.push(node);
        told = end;
      }
      at = end;
    }
    if (told < this.text.length) nodes.push(this.text.slice(told));
    return nodes;
  }

  /** Return how far to go on where nothing begins: a run of backticks opens as a whole. */
  width(place) {
    if (this.text[place] !== "`") return 1;
    const end = this.text.slice(place).search(/[^`]/);
    return end < 0 ? this.text.length - place : end;
  }

  /** Return the node that begins here and where it ends, null where none does. */
  span(at) {
    const text = this.text;
    switch (text[at]) {
      case "`":
        return this.code(at);
      case "*":
        return this.wrapped(at, "**", "strong") ?? this.simple(at, "*", "em");
      case "_":
        return this.wrapped(at, "__", "strong") ?? (isWord(text[at - 1]) ? null : this.simple(at, "_", "em"));
      case "~":
        return text.startsWith("~~", at) ? this.struck(at) : null;
      case "!":
        return text[at + 1] === "[" ? this.linked(at, at + 1) : null;
      case "[":
        return this.linked(at, at);
      case "h":
        return this.address(at);
      default:
        return ESCAPABLE.includes(text[at + 1] ?? " ") ? [text[at + 1], at + 2] : null;
    }
  }

  code(at) {
    const length = this.width(at);
    const starts = this.placesOf(length);
    while (starts.length && starts[starts.length - 1] <= at) starts.pop();
    if (!starts.length) return null;
    const end = starts[starts.length - 1];
    const code = this.text.slice(at + length, end);
    return [make("code", code.trim() || code), end + length];
  }

  placesOf(length) {
    if (this.runs === null) {
      this.runs = new Map();
      for (const run of this.text.matchAll(/`+/g)) {
        const places = this.runs.get(run[0].length);
        if (places) places.push(run.index);
        else this.runs.set(run[0].length, [run.index]);
      }
      for (const places of this.runs.values()) places.reverse();
    }
    return this.runs.get(length) ?? [];
  }

  /** A span that may hold others of its sign's letter: **bold**, __bold__. */
  wrapped(at, sign, tag) {
    const text = this.text;
    if (this.closed.has(sign) || !text.startsWith(sign, at) || isEdge(text[at + 2], sign)) return null;
    for (let end = text.indexOf(sign, at + 3); end >= 0; end = text.indexOf(sign, end + 1))
      if (!isEdge(text[end - 1], sign)) return [make(tag, inline(text.slice(at + 2, end), this.depth)), end + 2];
    this.closed.add(sign);
    return null;
  }

  /** A span up to the next sign: *italic*, _italic_. */
  simple(at, sign, tag) {
    const text = this.text;
    if (isEdge(text[at + 1], sign)) return null;
    const end = this.next(sign, at + 2);
    if (end < 0 || isEdge(text[end - 1], sign) || (sign === "_" && isWord(text[end + 1]))) return null;
    return [make(tag, inline(text.slice(at + 1, end), this.depth)), end + 1];
  }

  struck(at) {
    const end = this.next("~", at + 2);
    if (end <= at + 2 || !this.text.startsWith("~~", end)) return null;
    return [make("s", inline(this.text.slice(at + 2, end), this.depth)), end + 2];
  }

  next(sign, from) {
    if (this.closed.has(sign)) return -1;
    const found = this.text.indexOf(sign, from);
    if (found < 0) this.closed.add(sign);
    return found;
  }

  linked(at, open) {
    if (this.bracket <= open) this.bracket = this.next("]", open + 1);
    if (this.bracket < 0) return null;
    const target = this.target(this.bracket);
    if (target === null) return null;
    const label = this.text.slice(open + 1, this.bracket);
    const whole = this.text.slice(at, target.end);
    return [SAFE.test(target.address) ? link(target.address, label || target.address) : whole, target.end];
  }

  target(bracket) {
    if (!this.targets.has(bracket)) {
      TARGET.lastIndex = bracket;
      const found = TARGET.exec(this.text);
      this.targets.set(bracket, found && { address: found[1], end: TARGET.lastIndex });
    }
    return this.targets.get(bracket);
  }

  address(at) {
    ADDRESS.lastIndex = at;
    const found = ADDRESS.exec(this.text);
    if (!found) return null;
    let end = ADDRESS.lastIndex;
    while (`.,;:!?'"`.includes(this.text[end - 1])) end--; // of the sentence, not of the address
    if (end < at + found[1].length) return null;
    const address = this.text.slice(at, end);
    return [link(address, address), end];
  }
}

function isWord(character) {
  return character !== undefined && /\w/.test(character);
}

/** Whether a span's text may not begin or end so: with a blank, or with its own sign. */
function isEdge(character, sign) {
  return character === undefined || character === sign[0] || /\s/.test(character);
}

function link(target, label) {
  const anchor = make("a", label);
  anchor.href = target;
  anchor.target = "_blank";
  anchor.rel = "noopener noreferrer nofollow";
  return anchor;
}
