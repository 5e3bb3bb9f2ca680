// The quiet line at the foot: model, speed, context, memory, and how the cloud stands.

import { t } from "./words.js";

/** Draw the line; what a narrow screen has no room for goes first. */
export function draw(line, status, usage) {
  const { model, memory_bytes: memory, link, cloud } = status;
  const parts = [part(model.name, "")];
  if (usage?.decode_s && usage.completion_tokens > 1) {
    parts.push(part(t("speed", { n: Math.round((usage.completion_tokens - 1) / usage.decode_s) }), "middling"));
  }
  if (usage?.prompt_tokens) {
    const used = Math.min(usage.prompt_tokens + usage.completion_tokens, model.max_model_len);
    parts.push(part(`${t("context")} ${used}/${model.max_model_len}`, "minor"));
  }
  parts.push(part(`${Math.round(memory / 1e6).toLocaleString()} MB`, "minor"), part(link, `link ${cloud}`));
  line.replaceChildren(...parts);
}

function part(words, kind) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = words;
  return made;
}
