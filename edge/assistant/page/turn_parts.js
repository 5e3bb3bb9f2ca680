// The parts of a turn: elements of a class, and what was thought apart from what was answered.

/** Return an element of a class, with its children. */
export function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

const TAGS = { "<think>": "</think>", "[THINK]": "[/THINK]" };

/** Return what a model thought before its answer, and the answer; `open` while it still thinks. */
export function apart(text) {
  const start = text.trimStart();
  const tag = Object.keys(TAGS).find((each) => start.startsWith(each));
  // Half a tag may yet become one.
  if (!tag) return { thought: "", answer: Object.keys(TAGS).some((each) => each.startsWith(start)) ? "" : text, open: false };
  const end = start.indexOf(TAGS[tag]);
  const thought = start.slice(tag.length, end < 0 ? undefined : end).trim();
  return { thought, answer: end < 0 ? "" : start.slice(end + TAGS[tag].length).trimStart(), open: end < 0 };
}
