"""The bodies that are sent back, as OpenAI draws them, and what nearfar adds: `usage.route`."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from offload.messages import Confidence, Delta, Finish, Route

UNLIKELY = -9999.0  # OpenAI's stand-in for a log-probability that JSON cannot hold

Reason = Literal["stop", "length"]


class TokenLogprob(Struct, frozen=True):
    """One token's log-probability.

    `token` is the text by which the answer grew with this token: empty where a character or a
    possible stop string was still incomplete, and longer where it then was let go.
    """

    token: str
    logprob: float
    bytes: list[int]
    token_id: int
    top_logprobs: tuple[()] = ()


class ChatLogprobs(Struct, frozen=True):
    """The log-probabilities of a piece of a chat's answer."""

    content: list[TokenLogprob]
    refusal: None = None


class CompletionLogprobs(Struct, frozen=True):
    """The log-probabilities of a piece of a raw completion; offsets count characters."""

    tokens: list[str]
    token_logprobs: list[float]
    text_offset: list[int]
    top_logprobs: None = None


class UsageReply(Struct, frozen=True):
    """What an answer took, and who gave it: `route` for one choice, `routes` for several.

    `dropped_tokens` is there where a window slid: so many of the oldest tokens were not read.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    route: Route | UnsetType = UNSET
    routes: list[Route | None] | UnsetType = UNSET
    dropped_tokens: int | UnsetType = UNSET


class AnswerMessage(Struct, frozen=True):
    """A whole answer of a chat."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class MessageDelta(Struct, frozen=True):
    """What a chunk adds to a chat's answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET


class ChatChoice(Struct, frozen=True):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Reason


class ChunkChoice(Struct, frozen=True):
    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Reason | None = None


class TextChoice(Struct, frozen=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Reason | None = None


class Reply(Struct, frozen=True, kw_only=True):
    """Base of what POST /v1/... answers, whole or in chunks."""

    id: str
    created: int  # seconds since 1970
    model: str


class ChatReply(Reply, frozen=True, kw_only=True):
    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: UsageReply


class ChatChunk(Reply, frozen=True, kw_only=True):
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    usage: UsageReply | UnsetType | None = UNSET


class TextReply(Reply, frozen=True, kw_only=True):
    """A whole raw completion; its chunks have the same form, with other choices and usage."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]
    usage: UsageReply | UnsetType | None = UNSET


class ModelReply(Struct, frozen=True):
    """One name under which this endpoint answers."""

    id: str
    created: int
    max_model_len: int
    object: Literal["model"] = "model"
    owned_by: str = "nearfar"


class ModelList(Struct, frozen=True):
    data: list[ModelReply]
    object: Literal["list"] = "list"


def logprobs_of(delta: Delta) -> list[TokenLogprob]:
    """Return an entry for each token whose confidence is known; its last has the delta's text."""
    known = list(zip(delta.token_ids, delta.confidence, strict=False))
    texts = [""] * max(0, len(known) - 1) + [delta.text]
    return [_entry(text, token, sure) for text, (token, sure) in zip(texts, known, strict=False)]


def _entry(text: str, token: int, sure: Confidence) -> TokenLogprob:
    # NaN fails the comparison too, and JSON has no word for either.
    logprob = sure.logprob if sure.logprob > UNLIKELY else UNLIKELY
    return TokenLogprob(text, logprob, list(text.encode()), token)


def reason_of(finish: Finish) -> Reason:
    """Return the finish_reason; the others never get this far (see serve/answers.py)."""
    assert finish.reason in ("stop", "length"), "a failed answer is an error, not a reply"
    return "stop" if finish.reason == "stop" else "length"


def usage_of(finishes: list[Finish], per_prompt: int) -> UsageReply:
    """Return what all choices took; a prompt counts once, however many choices it has."""
    starts = range(0, len(finishes), per_prompt)
    read = sum(
        max(each.usage.prompt_tokens for each in finishes[at : at + per_prompt]) for at in starts
    )
    written = sum(each.usage.completion_tokens for each in finishes)
    routes = [each.route for each in finishes]
    alone = routes[0] if len(routes) == 1 else None
    return UsageReply(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        route=UNSET if alone is None else alone,
        routes=routes if len(routes) > 1 else UNSET,
        dropped_tokens=sum(each.dropped_tokens for each in finishes) or UNSET,
    )
