"""An echoed prompt: its text, and the part of that text which each of its tokens stands for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from offload.messages import PromptToken


def echoed(prompt: str | None, read: Sequence[PromptToken]) -> tuple[str, Sequence[PromptToken]]:
    """Return the text to echo, and the tokens with texts that join to exactly that.

    A model puts a token or a space before a text, which are no part of it. Where the tokens say
    something else than the prompt, since the tokenizer rewrote it, the text is what was read;
    that of token ids is always so.
    """
    texts = None if prompt is None else _parts(prompt, [token.text for token in read])
    if prompt is None or not read or texts is None:
        return ("".join(token.text for token in read) if read else prompt or ""), read
    parts = zip(read, texts, strict=True)
    return prompt, [msgspec.structs.replace(token, text=text) for token, text in parts]


def _parts(prompt: str, texts: Sequence[str]) -> list[str] | None:
    """Return the prompt, cut where its tokens end; None where they do not spell it."""
    parts, at = [], 0
    for text in texts:
        part = text
        if at == 0 and not prompt.startswith(text):  # what the model put before the text
            part = text[1:] if text[:1] == " " and prompt.startswith(text[1:]) else ""
        if not prompt.startswith(part, at):
            return None
        parts.append(part)
        at += len(part)
    return parts if at == len(prompt) else None
