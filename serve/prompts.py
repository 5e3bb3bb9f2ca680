"""Prompts of raw completions: texts or token ids, one or several, and their echo in the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from offload.messages import PromptToken
from serve.http_errors import BadRequest


class Prompt(NamedTuple):
    """Prompt: a text, or else token ids."""

    prompt: str | None
    token_ids: tuple[int, ...] = ()


def read_prompts(
    given: str | list[str | int | list[int]], vocab_size: int, *, may_be_empty: bool = False
) -> list[Prompt]:
    """Return the prompts. Raises BadRequest, naming the place, for none and for mixed ones.

    `vocab_size` is what token ids must lie below; 0 leaves that to the engine. A text
    `may_be_empty` where another follows it.
    """
    if may_be_empty and isinstance(given, str):
        return [Prompt(given)]
    if isinstance(given, str):
        return [_text(given, "prompt")]
    if all(isinstance(each, int) for each in given):
        return [_ids(given, "prompt", vocab_size)]
    if all(isinstance(each, str) for each in given):
        return [_text(each, f"prompt[{at}]") for at, each in enumerate(given)]
    if all(isinstance(each, list) for each in given):
        return [_ids(each, f"prompt[{at}]", vocab_size) for at, each in enumerate(given)]
    raise BadRequest(
        "prompt mixes texts and token ids; send either a text, texts, token ids, or lists of them",
        param="prompt",
    )


def _text(given: object, where: str) -> Prompt:
    assert isinstance(given, str), "the caller has looked"
    if not given.strip():
        raise BadRequest(f"{where} is empty; write one", param=where)
    return Prompt(given)


def _ids(given: object, where: str, vocab_size: int) -> Prompt:
    assert isinstance(given, list), "the caller has looked"
    if not given:
        raise BadRequest(f"{where} is empty; give at least one token id", param=where)
    for at, token in enumerate(given):
        if vocab_size and token >= vocab_size:
            raise BadRequest(
                f"{where}[{at}] is {token}; this model's token ids are 0 to {vocab_size - 1}",
                param=f"{where}[{at}]",
            )
    return Prompt(None, tuple(given))


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
