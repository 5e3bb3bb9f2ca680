// Text files that stand before a question, and the question apart from them.

const ATTACHED = /^(?<name>[^\n]{1,255}):\n(?<fence>`{3,})\n(?<content>[^]*?)\n\k<fence>\n\n(?=\S)/;

/** Return the files, each a name and its content, and the question behind them. */
export function attached(text) {
  const files = [];
  for (let found; (found = ATTACHED.exec(text)); text = text.slice(found[0].length)) {
    files.push({ name: found.groups.name, content: found.groups.content });
  }
  return { files, question: text };
}
