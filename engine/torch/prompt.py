"""Prompts: the tokens of a request, where an answer begins inside one, and those that must stay."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backbone.errors import TemplateRefusal
from backbone.tokenizer import Tokenizer
from engine.token_healing import Healer
from engine.window import Pins, common_prefix
from offload.chat_turns import plain_form, plain_stops, require_known, require_place, turns
from offload.errors import RequestError, Unsupported
from offload.messages import Request
from offload.scored_turn import scored_places


def prompt_tokens(
    tokenizer: Tokenizer, request: Request, *, writes_plain: bool = True
) -> list[int]:
    """Return the prompt's tokens, with what the answer begins with behind them.

    Without a chat template, messages are written out as plain text, or refused where `writes_plain`
    is off. Raises Unsupported for tools where nothing can tell the model of them, RequestError
    where the template refuses.
    """
    if request.prompt_token_ids:
        require_known(request, tokenizer.max_token_id + 1)
        return list(request.prompt_token_ids)
    template = tokenizer.template_for(request.tools)
    if request.tools and request.prompt is not None:
        raise Unsupported("tools need messages and a chat template; a raw prompt has neither")
    if request.tools and template is None:
        raise Unsupported("tools need a chat template with a place for them; leave them out")
    if template is None and request.prompt is None and not writes_plain:
        raise Unsupported("this model has no chat template; ask it with a plain prompt")
    require_place(request, template or "")
    tokens = _text_tokens(tokenizer, request)
    if not tokens:
        raise RequestError("the prompt has no token in this model's vocabulary; write a question")
    return tokens


def begun(
    tokenizer: Tokenizer, healer: Healer, request: Request, tokens: Sequence[int]
) -> tuple[list[int], bytes]:
    """Return which of a prompt's tokens to read, and the bytes that the next ones must spell.

    Bytes are left to be spelled where the answer's beginning ends inside a token, see
    engine/token_healing.py. Under a schema or with a judged prompt it is read as it stands:
    there each token counts.
    """
    sampling = request.sampling
    if not request.answer_prefix or sampling.json_schema is not None or sampling.prompt_logprobs:
        return list(tokens), b""
    bare = msgspec.structs.replace(request, answer_prefix="")
    start = _text_tokens(tokenizer, bare)
    # One token at least is read, or nothing would tell of the next.
    first = max(1, common_prefix(tokens, start))
    kept = len(tokens) - healer.taken_back(tokens[first:])
    return list(tokens[:kept]), b"".join(map(tokenizer.token_bytes, tokens[kept:]))


def scored(tokenizer: Tokenizer, request: Request, prompt: list[int]) -> range | None:
    """Return the places of a prompt whose likelihood is asked for."""
    if not request.sampling.prompt_logprobs:
        return None
    return scored_places(request, prompt, lambda other: prompt_tokens(tokenizer, other))


def stops(tokenizer: Tokenizer, request: Request) -> tuple[str, ...]:
    """Return what ends an answer beside the request's own stop strings."""
    return () if tokenizer.template_for(request.tools) is not None else plain_stops(request)


def _text_tokens(tokenizer: Tokenizer, request: Request) -> list[int]:
    if request.prompt is not None and request.suffix:
        return tokenizer.encode_around(request.prompt, request.suffix)
    if request.prompt is not None:
        return tokenizer.encode(request.prompt, answer_prefix=request.answer_prefix)
    if tokenizer.template_for(request.tools) is not None:
        return _chat_tokens(tokenizer, request)
    return tokenizer.encode_text(plain_form(turns(request)) + request.answer_prefix)


def _chat_tokens(tokenizer: Tokenizer, request: Request) -> list[int]:
    try:
        return tokenizer.encode_chat(
            turns(request),
            tools=request.tools,
            answer_prefix=request.answer_prefix,
            options=request.template_options,
        )
    except TemplateRefusal as error:
        raise RequestError(str(error)) from None


def pinned(tokenizer: Tokenizer, request: Request, tokens: Sequence[int]) -> Pins:
    """Return which of a request's tokens must never leave the window.

    Of messages: the system prompt with the tools, and all from the last user turn on. Where one
    ends is seen by writing something else behind it, so it holds for any template; to within a
    token where the tokenizer merges across the end. Of a raw prompt: all.
    """
    if not request.messages:
        return Pins.whole(len(tokens))
    roles = [message.role for message in request.messages]
    num_system = next((i for i, role in enumerate(roles) if role != "system"), len(roles))
    last_user = max((i for i, role in enumerate(roles) if role == "user"), default=0)
    first, last = 0, 0
    if num_system:
        first = common_prefix(tokens, _otherwise(tokenizer, request, num_system))
    if last_user:
        other = _otherwise(tokenizer, request, last_user - 1)
        last = len(tokens) - common_prefix(tokens[::-1], other[::-1])
    # A template that leaves a turn out shows no end of it.
    last = last if 0 < last < len(tokens) else 0
    return Pins(num_first=min(first, len(tokens)), last_start=last, last_end=len(tokens))


def _otherwise(tokenizer: Tokenizer, request: Request, index: int) -> list[int]:
    """Return the prompt's tokens with another text in one of its messages."""
    if index >= len(request.messages):
        return []
    old = request.messages[index].content.strip()
    other = "#" if not old.startswith("#") and not old.endswith("#") else "@"
    messages = list(request.messages)
    messages[index] = msgspec.structs.replace(messages[index], content=other)
    return _text_tokens(tokenizer, msgspec.structs.replace(request, messages=tuple(messages)))
