"""Response bodies in OpenAI's form, with `usage.route` added."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from offload.messages import Finish, Route
from serve.logprobs import ChatLogprobs, CompletionLogprobs

Reason = Literal["stop", "length", "tool_calls"]


class PromptDetails(Struct, frozen=True):
    """Prompt token details: how many were cached."""

    cached_tokens: int = 0


class UsageReply(Struct, frozen=True):
    """Usage of an answer, and who gave it: `route` for one choice, `routes` for several.

    Of `prompt_tokens`, so many were found in a cache as `prompt_tokens_details` says.

    `dropped_tokens` is there where a window slid: so many of the oldest tokens were not read.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    route: Route | UnsetType = UNSET
    routes: list[Route | None] | UnsetType = UNSET
    dropped_tokens: int | UnsetType = UNSET


class CalledFunctionReply(Struct, frozen=True):
    """Function call in a reply; `arguments` is JSON text."""

    name: str
    arguments: str


class CallReply(Struct, frozen=True):
    """A call of one of the client's tools."""

    id: str
    function: CalledFunctionReply
    type: Literal["function"] = "function"


class FunctionPart(Struct, frozen=True):
    """A piece of a call's arguments; the first piece names the function."""

    arguments: str
    name: str | UnsetType = UNSET


class CallPart(Struct, frozen=True):
    """A piece of the call of this number, in a stream; the first has the call's id."""

    index: int
    function: FunctionPart
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class AnswerMessage(Struct, frozen=True):
    """A whole answer of a chat."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallReply] | UnsetType = UNSET


class MessageDelta(Struct, frozen=True):
    """Message delta: what a chunk adds to a chat's answer."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    refusal: UnsetType | None = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallPart] | UnsetType = UNSET


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
    """Base of the replies of POST /v1/..., whole or in chunks."""

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
    """Text reply: a whole raw completion; its chunks differ in choices and usage."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]
    usage: UsageReply | UnsetType | None = UNSET


class EmbeddingReply(Struct, frozen=True):
    """Embedding of one text: numbers, or float32 little-endian in base64."""

    embedding: list[float] | str
    index: int
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(Struct, frozen=True):
    """Usage of embeddings; engines do not count the tokens, so that both are 0."""

    prompt_tokens: int = 0
    total_tokens: int = 0


class EmbeddingList(Struct, frozen=True):
    data: list[EmbeddingReply]
    model: str
    object: Literal["list"] = "list"
    usage: EmbeddingUsage = EmbeddingUsage()


class TokenizeReply(Struct, frozen=True):
    """Reply of POST /tokenize: the tokens of a prompt."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeReply(Struct, frozen=True):
    """Reply of POST /detokenize: the text of tokens."""

    prompt: str


class ModelReply(Struct, frozen=True):
    """Model reply: one name under which this endpoint answers."""

    id: str
    created: int
    max_model_len: int
    object: Literal["model"] = "model"
    owned_by: str = "nearfar"


class ModelList(Struct, frozen=True):
    data: list[ModelReply]
    object: Literal["list"] = "list"


def reason_of(finish: Finish) -> Reason:
    """Return the finish_reason; the others never get this far (see serve/answer_streams.py)."""
    assert finish.reason in ("stop", "length"), "a failed answer is an error, not a reply"
    return "stop" if finish.reason == "stop" else "length"


def usage_of(finishes: list[Finish], per_prompt: int) -> UsageReply:
    """Return what all choices took; a prompt counts once, however many choices it has."""
    starts = range(0, len(finishes), per_prompt)
    shares = [finishes[at : at + per_prompt] for at in starts]
    read = sum(max(each.usage.prompt_tokens for each in share) for share in shares)
    # A prompt was cached as far as its first choice found it, before the others could.
    cached = sum(min(each.usage.cached_tokens for each in share) for share in shares)
    written = sum(each.usage.completion_tokens for each in finishes)
    routes = [each.route for each in finishes]
    alone = routes[0] if len(routes) == 1 else None
    return UsageReply(
        prompt_tokens=read,
        completion_tokens=written,
        total_tokens=read + written,
        prompt_tokens_details=PromptDetails(cached),
        route=UNSET if alone is None else alone,
        routes=routes if len(routes) > 1 else UNSET,
        dropped_tokens=sum(each.dropped_tokens for each in finishes) or UNSET,
    )
