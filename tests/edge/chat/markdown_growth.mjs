// How long hostile Markdown takes at two lengths, as one line of JSON; run by test_desk_markdown.py.
class Node {
  constructor(tag) {
    this.tagName = tag.toUpperCase();
    this.childNodes = [];
  }
  append(...nodes) {
    this.childNodes.push(...nodes);
  }
  addEventListener() {}
}
globalThis.document = {
  createElement: (tag) => new Node(tag),
  createTextNode: (text) => text,
  querySelectorAll: () => [],
};
globalThis.localStorage = { getItem: () => null };
Object.defineProperty(globalThis, "navigator", { value: { language: "en" } });
const { render } = await import(process.argv[2]);

function rising(length) {
  let text = "";
  for (let n = 1; text.length < length; n++) text += `${"`".repeat(n)} `;
  return text;
}

const again = (part, before = "", after = "") => (length) => before + part.repeat(length / part.length) + after;
const HOSTILE = {
  rising,
  ...Object.fromEntries(
    ["**a ", "*a ", "_a ", "__a _", "***a ", "[", "](a", "[a](b ", "`a", "~~a ~", "\\", "http://,", "> ", ">", "- a\n\n", "a\n", "| ", "```\n~~~\n"].map((part) => [part, again(part)]),
  ),
  heading: again(" ", "# a", "b"),
  blanks: again(" ", "a", "b"),
  divider: again(" ", "|\n", "x-"),
  rule: again("* ", "", "x"),
  number: again("1", "```js\n", "x\n```"),
  quotes: again('"\\', "```js\n", "\n```"),
  comments: again("/*", "```js\n", "\n```"),
  address: again(",", "http://"),
};

function seconds(text) {
  const began = process.cpuUsage();
  render(text);
  const used = process.cpuUsage(began);
  return (used.user + used.system) / 1e6;
}

const [short, long] = [30_000, 120_000];
const told = {};
for (const [name, grown] of Object.entries(HOSTILE)) {
  render(grown(3000));
  const least = (text) => Math.min(seconds(text), seconds(text));
  told[name] = { short: least(grown(short)), long: least(grown(long)), times: long / short };
}
const show = (node) => (typeof node === "string" ? node : `<${node.tagName}>${node.childNodes.map(show).join("")}</>`);
const shown = Object.fromEntries(JSON.parse(process.argv[3]).map((text) => [text, render(text).map(show).join("")]));
console.log(JSON.stringify({ told, shown }));
