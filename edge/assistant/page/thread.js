// The turns of a conversation, and the answer that is being written at its end.

import { badge, better, copier } from "./answer_foot.js";
import { attached } from "./attached.js";
import { render } from "./markdown.js";
import { drawn, fetched } from "./pictures.js";
import { called, ofTurn } from "./tools.js";
import { apart, make } from "./turn_parts.js";
import { welcome } from "./welcome.js";
import { t } from "./words.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})/;

/** Return how much of the text is whole blocks: up to the last blank line outside a fence. */
export function settled(text) {
  let end = 0;
  let place = 0;
  let fence = "";
  for (const line of text.split(/(?<=\n)/)) {
    const mark = FENCE.exec(line)?.[1];
    if (mark && !fence) fence = mark;
    else if (mark?.startsWith(fence)) fence = "";
    place += line.length;
    if (!fence && !line.trim() && line.endsWith("\n")) end = place;
  }
  return end;
}

/** The thoughts before an answer, closed until they are asked for; `seconds` where somebody watched. */
function folded({ thought, open }, seconds = 0) {
  const said = seconds ? t("thought_for", { n: seconds }) : t("thought");
  return make("details", "thoughts", make("summary", "", open ? t("writing") : said), make("p", "", thought));
}

/** One answer as it is written: whole blocks are drawn once, only the last is drawn again. */
class Writing {
  constructor(body) {
    this.body = body;
    this.clear();
  }

  clear() {
    this.text = "";
    this.done = 0;
    this.tail = [];
    this.thoughts = null;
    this.since = 0; // when the first thought was seen to come
    this.seconds = 0;
    this.body.replaceChildren();
  }

  /** Show what was thought so far, folded as the reader left it. */
  think(parts) {
    if (!parts.thought) return;
    if (parts.open) this.since ||= performance.now();
    else if (this.since) this.seconds ||= Math.max(1, Math.round((performance.now() - this.since) / 1000));
    const made = folded(parts, this.seconds);
    made.open = this.thoughts?.open ?? false;
    if (this.thoughts) this.thoughts.replaceWith(made);
    else this.body.prepend(made);
    this.thoughts = made;
  }

  write(text) {
    this.text += text;
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    const parts = apart(this.text);
    if (parts.open || !this.done) this.think(parts);
    const text = parts.answer;
    const end = this.done + settled(text.slice(this.done));
    for (const node of this.tail) node.remove();
    if (end > this.done) this.body.append(...render(text.slice(this.done, end)));
    this.done = end;
    this.tail = render(text.slice(end));
    this.body.append(...this.tail);
  }
}

export class Thread {
  constructor(element, { retry, example, manage, picture, edit, version, resume }) {
    this.element = element;
    this.version = version;
    this.resume = resume;
    this.retry = retry;
    this.picture = picture;
    this.example = { ask: example, manage };
    this.edit = edit;
    this.status = null;
    element.addEventListener("scroll", () => this.scrolled());
    this.follows = true;
  }

  /** Take what the server said of itself: who can be asked, and what the empty page tells. */
  stand(status) {
    this.status = status;
    this.element.querySelector(".welcome")?.replaceWith(welcome(status, this.example));
  }

  get canAskCloud() {
    return Boolean(this.status?.has_cloud && !this.status.private);
  }

  scrolled() {
    this.follows = this.isAtEnd();
    document.getElementById("latest").hidden = this.follows;
  }

  isAtEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.element;
    return scrollHeight - scrollTop - clientHeight < 60;
  }

  /** Keep the newest words in view, unless the reader has scrolled up; `always` goes there. */
  toEnd(always = false) {
    if (this.follows || always) this.element.scrollTop = this.element.scrollHeight;
  }

  /** Show a conversation; an answer under way is left open for more. */
  show(turns) {
    this.writing = null;
    this.hasCalled = false;
    const shown = turns.map((turn, n) => this.turn(turn, n === turns.length - 1));
    this.element.replaceChildren(...(turns.length ? shown : [welcome(this.status, this.example)]));
    this.meet(turns);
    this.follows = true;
    this.toEnd();
    this.scrolled();
  }

  /** Let what is shown know its turns: which can be changed, and which have other versions. */
  meet(turns) {
    const articles = this.element.querySelectorAll(":scope > article");
    if (articles.length !== turns.length) return;
    articles.forEach((article, n) => {
      article.turn = turns[n];
      article.querySelector(":scope > .versions")?.remove();
      if (turns[n].versions.length > 1) article.append(this.versions(turns[n]));
    });
  }

  /** Return the element of a turn. */
  find(turn) {
    return [...this.element.querySelectorAll(":scope > article")].find((article) => article.turn?.id === turn);
  }

  versions({ id, versions }) {
    const at = versions.indexOf(id);
    const step = (by, sign, label) => {
      const button = make("button", "small", sign);
      button.setAttribute("aria-label", t(label));
      button.disabled = !versions[at + by];
      button.addEventListener("click", () => this.version(versions[at + by]));
      return button;
    };
    const place = make("span", "", `${at + 1}/${versions.length}`);
    const row = make("div", "versions", step(-1, "‹", "version_before"), place, step(1, "›", "version_after"));
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", t("versions"));
    return row;
  }

  turn(turn, last) {
    if (turn.role === "user") return this.question(turn.content, turn.pictures.map(({ id }) => fetched(this.picture(id))));
    if (turn.role === "tool") return ofTurn(turn);
    const article = this.article();
    const parts = apart(turn.content);
    if (turn.state !== "writing") article.querySelector(".body").append(...(parts.thought ? [folded(parts)] : []), ...render(parts.answer));
    if (turn.state === "writing") this.writing = this.begun(article, turn.content);
    else if (!turn.calls.length) this.foot(article, turn, last);
    return article;
  }

  question(text, pictures = []) {
    const { files, question } = attached(text);
    const article = make("article", "question", make("div", "bubble", ...pictures, ...files.map(file), question));
    article.setAttribute("aria-label", t("you"));
    const button = make("button", "small edit", t("edit"));
    button.addEventListener("click", () => article.turn && this.edit(article.turn));
    article.prepend(button);
    return article;
  }

  article() {
    const article = make("article", "answer", make("div", "body"));
    article.setAttribute("aria-label", "nearfar");
    return article;
  }

  begun(article, text) {
    const writing = new Writing(article.querySelector(".body"));
    writing.article = article;
    writing.badge = make("span", "badge near", t("writing"));
    // Where the foot will be: the page must not jump when the answer ends.
    article.append(make("div", "row", writing.badge));
    article.classList.add("writing");
    article.setAttribute("aria-busy", "true");
    if (text) writing.write(text);
    return writing;
  }

  /** Begin an answer under a new question. */
  begin(question, pictures = []) {
    this.element.querySelector(".welcome")?.remove();
    for (const foot of this.element.querySelectorAll(".retry")) foot.remove();
    this.element.append(this.question(question, pictures.map(({ url }) => drawn(url))));
    const article = this.article();
    this.element.append(article);
    this.writing = this.begun(article, "");
    this.follows = true;
    this.toEnd();
  }

  /** Take one event of the answer under way. */
  take(event) {
    if (!this.writing) return;
    if (event.type === "tool") return this.called(event);
    if (event.type === "so_far") this.writing.clear();
    if (event.type === "reading") this.reads(event);
    if (event.replaces) this.replace(event.text);
    if (event.source) this.from(event.source);
    if (event.text) this.writing.write(event.text);
    requestAnimationFrame(() => this.toEnd());
    if (["finish", "error", "stopped"].includes(event.type)) this.end(event);
  }

  /** Begin the rest of an answer. */
  goOn() {
    const article = this.article();
    this.element.append(article);
    this.writing = this.begun(article, "");
  }

  /** Show a call and its result; the answer goes on below. */
  called({ shown, result }) {
    const { article } = this.writing;
    this.writing.draw();
    article.querySelector(":scope > .row").remove();
    article.classList.remove("writing");
    article.removeAttribute("aria-busy");
    this.hasCalled = true;
    this.element.append(called({ shown, text: result }));
    this.goOn();
    this.toEnd();
  }

  /** Say how far a long prompt has been read, and by whom. */
  reads({ side, read, of }) {
    const far = side === "cloud";
    this.writing.badge.className = `badge ${far ? "far" : "near"}`;
    this.writing.badge.textContent = t(far ? "reading_far" : "reading", { n: read.toLocaleString(), of: of.toLocaleString() });
  }

  /** Say who is writing, as soon as that is known. */
  from(source) {
    this.writing.badge.className = `badge ${source === "cloud" ? "far" : "near"}`;
    this.writing.badge.textContent = t(source === "cloud" ? "far" : "near");
  }

  /** Take the text back; where only its end is, half a word or circles, nothing need be shown of that. */
  replace(text) {
    if (this.writing.text && !(text && this.writing.text.startsWith(text))) {
      this.writing.draw();
      const gone = make("details", "withdrawn", make("summary", "", t("seam")), ...this.writing.body.cloneNode(true).childNodes);
      this.writing.body.before(gone);
    }
    this.writing.clear();
  }

  end(event) {
    const { article, text } = this.writing;
    this.writing.draw();
    this.writing = null;
    article.querySelector(":scope > .row").remove();
    article.classList.remove("writing");
    article.removeAttribute("aria-busy");
    const state = { error: "failed", stopped: "stopped" }[event.type] ?? "whole";
    const goesOn = Boolean(text.trim()) && (state !== "whole" || event.finish?.reason === "length");
    this.foot(article, { ...event, content: text, state, can_go_on: goesOn, remarks: event.remarks ?? (event.error ? [event.error] : []) }, true);
    requestAnimationFrame(() => this.toEnd());
  }

  foot(article, turn, last) {
    const remarks = (turn.remarks ?? []).map((remark) => make("p", "remark", remark));
    if (turn.state !== "whole" && !remarks.length) remarks.push(make("p", "remark", t(turn.state)));
    const row = make("div", "row");
    const route = turn.finish?.route;
    if (route) row.append(badge(route, turn));
    // What opens at the end is to be read, and not to lie behind the question's field.
    if (route && last) row.lastChild.addEventListener("toggle", () => this.toEnd());
    const actions = make("div", "actions");
    const { answer } = apart(turn.content ?? "");
    if (answer) actions.append(copier(answer));
    if (last && turn.can_go_on) {
      const button = make("button", "small retry", t("go_on"));
      button.addEventListener("click", () => this.resume());
      actions.append(button);
    }
    if (last) actions.append(...this.retries());
    row.append(actions);
    article.append(...remarks, row);
    if (turn.better) article.append(better(turn.better));
  }

  /** Put better answers that came later beside their first ones; say whether any came, or may. */
  better(turns) {
    const articles = this.element.querySelectorAll(".answer");
    const answers = turns.filter((turn) => turn.role === "assistant");
    const fresh = answers.map((turn, n) => [turn, articles[n]]).filter(([turn, at]) => turn.better && at && !at.querySelector(".better"));
    for (const [turn, at] of fresh) at.append(better(turn.better));
    this.toEnd();
    return { came: fresh.length > 0, may: this.canAskCloud && answers.some((turn) => turn.waiting) };
  }

  retries() {
    const button = (words, side) => {
      const made = make("button", "small retry", words);
      made.addEventListener("click", () => this.retry(side));
      return made;
    };
    const near = button(t("retry_near"), "edge");
    return this.canAskCloud ? [near, button(t("retry_cloud"), "cloud")] : [near];
  }
}

/** A file with a question, closed until it is asked for. */
function file({ name, content }) {
  return make("details", "file", make("summary", "", name), make("pre", "", content));
}
