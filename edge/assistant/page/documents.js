// Documents that stay attached to a conversation: each question is given the passages that may answer.

import { t } from "./words.js";

const WHOLE_BYTES = 20_000; // a text of up to so many is read here, and goes with the question

export class Documents {
  constructor(chips, upload) {
    this.chips = chips;
    this.upload = upload;
    this.kept = [];
  }

  /** Return a file's name and text where it is small; else keep it for the conversation, and null. */
  async take(file) {
    if (file.size <= WHOLE_BYTES) {
      const content = await file.text();
      if (content.trim() && !/\0|\ufffd/.test(content) && !content.startsWith("%PDF-")) return { name: file.name, content };
    }
    const read = await this.upload(file);
    if (!read) return null; // why was said
    if (!read.id) return read;
    this.show([...this.kept, read]);
    return null;
  }

  ids() {
    return this.kept.map(({ id }) => id);
  }

  /** Show what stays attached; a press takes one away. */
  show(kept) {
    this.kept = kept;
    this.chips.replaceChildren(
      ...kept.map((document_, n) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.className = "chip";
        const about = document_.about ? ` (${document_.about})` : "";
        chip.textContent = `${document_.name}${about} ×`;
        chip.title = t("searched");
        chip.setAttribute("aria-label", `${t("delete")} ${document_.name}: ${t("searched")}`);
        chip.addEventListener("click", () => this.show(this.kept.toSpliced(n, 1)));
        return chip;
      }),
    );
  }
}
