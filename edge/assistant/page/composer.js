// The box at the foot: a question that grows, text files with it, and the button that sends or stops.

import { attached } from "./attached.js";
import { drawn, isPicture, taken } from "./pictures.js";
import { t } from "./words.js";

const DRAFT = "nearfar-draft";
const EDITS = "nearfar-draft-edits";
const STAYS = "nearfar-draft-stays";

export class Composer {
  constructor({ send, stop, take }) {
    this.form = document.getElementById("composer");
    this.box = document.getElementById("question");
    this.button = document.getElementById("send");
    this.picker = document.getElementById("file");
    this.chips = document.getElementById("files");
    this.files = [];
    this.pictures = [];
    this.edits = 0; // the turn in whose place the question will stand
    this.before = null; // what stood in the box before that
    this.busy = false;
    this.actions = { send, stop, take };
    this.box.value = sessionStorage.getItem(DRAFT) ?? "";
    this.stays = sessionStorage.getItem(STAYS) === "true";
    this.isPrivate = false;
    Object.assign(this, JSON.parse(sessionStorage.getItem(EDITS) ?? "{}"));
    this.form.classList.toggle("editing", Boolean(this.edits));
    this.listen();
    this.grow();
  }

  listen() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.busy) this.actions.stop();
      else this.submit();
    });
    this.box.addEventListener("input", () => this.grow());
    this.box.addEventListener("keydown", (event) => {
      // While a word is being composed (Chinese, Japanese), Enter chooses it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.busy) this.submit();
    });
    document.getElementById("attach").addEventListener("click", () => this.picker.click());
    this.picker.addEventListener("change", () => this.attach([...this.picker.files]));
    this.box.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length) return;
      event.preventDefault();
      this.attach(files);
    });
    this.form.addEventListener("dragover", (event) => event.preventDefault());
    this.form.addEventListener("drop", (event) => {
      event.preventDefault();
      this.attach([...event.dataTransfer.files]);
    });
  }

  submit() {
    const text = this.box.value.trim();
    if (!text && !this.pictures.length) return;
    const files = this.files.map(({ name, content }) => fenced(name, content));
    const { stays, edits, pictures } = this;
    this.leaveEdit();
    this.box.value = "";
    this.files = [];
    this.pictures = [];
    this.showFiles();
    this.grow();
    this.actions.send([...files, text].join("\n\n"), null, stays, edits, pictures);
  }

  /** Give a question back that could not be sent. */
  restore(text, stays, edits, pictures) {
    if (this.box.value) return;
    this.pictures = pictures;
    const { files, question } = attached(text);
    this.edits = edits;
    this.files = files;
    this.showFiles();
    this.put(question, stays);
  }

  /** Take a question that was asked into the box; Esc brings back what stood there. */
  edit({ id, content, privacy }, pictures = []) {
    this.before ??= { text: this.box.value, files: this.files, stays: this.stays, pictures: this.pictures };
    this.pictures = pictures;
    const { files, question } = attached(content);
    this.edits = id;
    this.files = files;
    this.showFiles();
    this.put(question, privacy === "local_only");
    this.form.classList.add("editing");
  }

  /** Give up changing a question; say whether one was being changed. */
  leaveEdit() {
    if (!this.edits) return false;
    const { text, files, stays, pictures } = this.before ?? { text: "", files: [], stays: false };
    this.edits = 0;
    this.before = null;
    this.form.classList.remove("editing");
    this.box.value = text;
    this.files = files;
    this.pictures = pictures ?? [];
    this.stays = stays;
    this.showFiles();
    this.grow();
    return true;
  }

  /** What is written while nothing may leave stays here, also once it is sent later. */
  stand({ private: isPrivate }) {
    this.isPrivate = isPrivate;
    this.grow();
  }

  /** Put a text into the box, to be changed and sent. */
  put(text, stays = false) {
    this.box.value = text;
    this.stays ||= stays;
    this.grow();
    this.box.focus();
  }

  setBusy(busy) {
    this.busy = busy;
    this.button.classList.toggle("stopping", busy);
    this.button.setAttribute("aria-label", t(busy ? "stop" : "send"));
    this.button.title = t(busy ? "stop" : "send");
    this.ready();
  }

  /** Let the button look pressable only where it would do something. */
  ready() {
    this.button.setAttribute("aria-disabled", String(!this.busy && !this.box.value.trim() && !this.pictures.length));
  }

  grow() {
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight, innerHeight * 0.4)}px`;
    this.stays = (this.stays || this.isPrivate) && Boolean(this.box.value || this.files.length || this.pictures.length);
    sessionStorage.setItem(DRAFT, this.box.value); // a reload loses nothing that was typed
    const before = this.before && { ...this.before, files: [], pictures: [] }; // files are not kept over a reload
    sessionStorage.setItem(EDITS, JSON.stringify({ edits: this.edits, before }));
    sessionStorage.setItem(STAYS, String(this.stays));
    this.ready();
  }

  async attach(files) {
    this.pictures.push(...(await taken(files.filter(isPicture), this.pictures.length, this.actions.fail)));
    for (const file of files.filter((each) => !isPicture(each))) {
      const whole = await this.actions.take(file);
      if (whole) this.files.push(whole);
    }
    this.picker.value = "";
    this.showFiles();
    this.grow();
    this.box.focus();
  }

  showFiles() {
    const pictures = this.pictures.map(({ url }, n) => this.chip(this.pictures, n, t("picture"), drawn(url)));
    this.chips.replaceChildren(...pictures, ...this.files.map(({ name }, n) => this.chip(this.files, n, name, name)));
    this.ready();
  }

  /** A thing that goes with the question; pressing it takes it away. */
  chip(among, n, name, shown) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.append(shown, " ×");
    chip.setAttribute("aria-label", `${t("delete")} ${name}`);
    chip.addEventListener("click", () => {
      among.splice(n, 1);
      this.showFiles();
    });
    return chip;
  }
}

/** A file's text in a fence that nothing inside can close. */
function fenced(name, content) {
  let fence = "```";
  while (content.includes(fence)) fence += "`";
  return `${name}:\n${fence}\n${content.trimEnd()}\n${fence}`;
}
