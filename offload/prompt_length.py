"""Prompt length: whether a prompt can fit a context, told from its characters alone.

A tokenizer needs seconds for megabytes, so what cannot fit is refused before it is asked.
"""

from __future__ import annotations

from offload.errors import ContextLengthError
from offload.messages import Message, Request

# No text is this long in the mean: the longest tokens are runs of blanks of about 128 characters,
# those of words and code are 3 to 6.
MAX_CHARS_PER_TOKEN = 32
# An older turn may be forgotten, so that what is read of a conversation is bounded by itself.
MAX_CONVERSATION_CHARS = 1024 * 1024


def require_short(request: Request, max_model_len: int, *, forgets: bool = False) -> None:
    """Raise ContextLengthError where a context of so many tokens cannot hold the text.

    An engine that `forgets` older turns must hold the system's text and the last turn only.
    """
    max_chars = max_model_len * MAX_CHARS_PER_TOKEN
    whole = len(request.prompt or "") + _num_chars(request.messages)
    if forgets and whole <= max(MAX_CONVERSATION_CHARS, max_chars):
        stays = tuple(each for each in request.messages if each.role == "system")
        whole = len(request.prompt or "") + _num_chars((*stays, *request.messages[-1:]))
    if whole > max_chars:
        raise ContextLengthError(f"{whole} characters", max_model_len)


def require_short_text(text: str, max_model_len: int) -> None:
    """Raise ContextLengthError where a context of so many tokens cannot hold a text."""
    if len(text) > max_model_len * MAX_CHARS_PER_TOKEN:
        raise ContextLengthError(f"{len(text)} characters", max_model_len)


def _num_chars(messages: tuple[Message, ...]) -> int:
    return sum(
        len(each.content) + sum(len(call.arguments) for call in each.tool_calls)
        for each in messages
    )
