// Colours code without understanding it: comments, strings, numbers and the words of a family.

const WORDS = {
  python: "and as assert async await break class continue def del elif else except finally for from global if import in is lambda match case nonlocal not or pass raise return try while with yield None True False self",
  c: "auto bool break case char class const constexpr continue default delete do double else enum extern false float for fn func function go if impl import in int interface let long loop match mod mut namespace new nil null nullptr package private protected pub public return short signed sizeof static struct super switch template this throw trait true try type typedef typename union unsigned use using var virtual void volatile where while async await yield of export extends undefined",
  shell: "if then else elif fi for in do done while until case esac function return export local set exit cd echo sudo",
  sql: "select from where and or not in is null join left right inner outer on group by order having limit insert into values update set delete create table index as distinct union all case when then else end",
};
const FAMILY = {
  python: "python", py: "python", bash: "shell", sh: "shell", shell: "shell", zsh: "shell", console: "shell",
  toml: "shell", yaml: "shell", yml: "shell", ini: "shell", dockerfile: "shell", sql: "sql",
};
const PLAIN = new Set(["", "text", "txt", "plain", "markdown", "md"]);
const HASH = /#[^\n]*/y;
const SLASHES = /\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)/y;
const DASHES = /--[^\n]*/y;
const STRING = /"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?/y;
const NUMBER = /\b(?:0x[\da-fA-F]+|\d[\d_]*(?:\.\d*)?(?:e[+-]?\d+)?)\b/y;
const WORD = /[A-Za-z_$][\w$]*/y;
const COMMENT = { python: HASH, shell: HASH, sql: DASHES, c: SLASHES };

/** Return the code as nodes: text, and spans of class c (comment), s, n, k (keyword), f (call). */
export function highlight(code, language) {
  const name = language.toLowerCase();
  if (PLAIN.has(name)) return [document.createTextNode(code)];
  const family = FAMILY[name] ?? "c";
  const keywords = new Set(WORDS[family].split(" "));
  const nodes = [];
  let plain = "";
  let place = 0;
  const take = (pattern) => {
    pattern.lastIndex = place;
    return pattern.exec(code)?.[0];
  };
  const put = (kind, text) => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = text;
    nodes.push(span);
  };
  while (place < code.length) {
    let found;
    if ((found = take(COMMENT[family]))) put("c", found);
    else if ((found = take(STRING))) put("s", found);
    else if ((found = take(NUMBER))) put("n", found);
    else if ((found = take(WORD))) {
      if (keywords.has(family === "sql" ? found.toLowerCase() : found)) put("k", found);
      else if (code[place + found.length] === "(") put("f", found);
      else plain += found;
    } else plain += found = code[place];
    place += found.length;
  }
  if (plain) nodes.push(document.createTextNode(plain));
  return nodes;
}
