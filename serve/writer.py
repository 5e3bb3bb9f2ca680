"""Writes one request's answers in the form its path promises: a chat, or a raw completion."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TypedDict

from msgspec import UNSET, UnsetType

from offload.messages import Delta, Finish
from serve.asking import Asked
from serve.replies import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatLogprobs,
    ChatReply,
    ChunkChoice,
    CompletionLogprobs,
    MessageDelta,
    Reply,
    TextChoice,
    TextReply,
    TokenLogprob,
    UsageReply,
    logprobs_of,
    reason_of,
    usage_of,
)


@dataclass
class Gathered:
    """One choice as it comes together; what is withdrawn is forgotten."""

    finish: Finish | None = None
    texts: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)

    def take(self, item: Delta | Finish) -> None:
        """Add the next item of the answer."""
        if isinstance(item, Finish):
            self.finish = item
            return
        if item.replaces:
            self.texts.clear()
            self.tokens.clear()
        self.texts.append(item.text)
        self.tokens += logprobs_of(item)

    @property
    def text(self) -> str:
        return "".join(self.texts)


class _Head(TypedDict):
    id: str
    created: int
    model: str


class Writer(ABC):
    """The reply to one request, whole or in chunks."""

    prefix = ""  # of the reply's id

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._head = _Head(
            id=f"{self.prefix}-{asked.requests[0].id}", created=int(time.time()), model=asked.model
        )
        # Where usage is asked for, every other chunk says that it has none.
        self._no_usage: UnsetType | None = None if asked.include_usage else UNSET

    @abstractmethod
    def whole(self, choices: list[Gathered]) -> Reply:
        """Return the reply of a request that does not stream."""

    @abstractmethod
    def opening(self, index: int) -> Reply | None:
        """Return the first chunk of a choice, before its text."""

    @abstractmethod
    def piece(self, index: int, delta: Delta) -> Reply:
        """Return the chunk that carries a Delta."""

    @abstractmethod
    def ending(self, index: int, finish: Finish) -> Reply:
        """Return the chunk that ends a choice."""

    @abstractmethod
    def tally(self, finishes: list[Finish]) -> Reply:
        """Return the chunk after all choices, which says what they took."""

    def says(self, delta: Delta) -> bool:
        """Whether a Delta is worth a chunk."""
        return bool(delta.text) or (self.asked.logprobs and bool(delta.token_ids))

    def _usage(self, finishes: list[Finish]) -> UsageReply:
        return usage_of(finishes, self.asked.per_prompt)


class ChatWriter(Writer):
    """Writes chat completions."""

    prefix = "chatcmpl"

    def whole(self, choices: list[Gathered]) -> Reply:
        finishes = _finishes(choices)
        made = [
            ChatChoice(i, AnswerMessage(each.text), self._logprobs(each.tokens), reason_of(finish))
            for i, (each, finish) in enumerate(zip(choices, finishes, strict=True))
        ]
        return ChatReply(choices=made, usage=self._usage(finishes), **self._head)

    def opening(self, index: int) -> Reply | None:
        role = MessageDelta(role="assistant", content="", refusal=None)
        return self._chunk(ChunkChoice(index, role))

    def piece(self, index: int, delta: Delta) -> Reply:
        logprobs = self._logprobs(logprobs_of(delta))
        return self._chunk(ChunkChoice(index, MessageDelta(content=delta.text), logprobs))

    def ending(self, index: int, finish: Finish) -> Reply:
        end = ChunkChoice(index, MessageDelta(), finish_reason=reason_of(finish))
        return self._chunk(end)

    def tally(self, finishes: list[Finish]) -> Reply:
        return ChatChunk(choices=[], usage=self._usage(finishes), **self._head)

    def _chunk(self, choice: ChunkChoice) -> Reply:
        return ChatChunk(choices=[choice], usage=self._no_usage, **self._head)

    def _logprobs(self, tokens: list[TokenLogprob]) -> ChatLogprobs | None:
        return ChatLogprobs(tokens) if self.asked.logprobs else None


class TextWriter(Writer):
    """Writes raw completions."""

    prefix = "cmpl"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._lengths = [0] * len(asked.requests)  # characters sent so far, for text_offset

    def whole(self, choices: list[Gathered]) -> Reply:
        finishes = _finishes(choices)
        made = [
            TextChoice(
                i, self._echo(i) + each.text, self._logprobs(i, each.tokens), reason_of(finish)
            )
            for i, (each, finish) in enumerate(zip(choices, finishes, strict=True))
        ]
        return TextReply(choices=made, usage=self._usage(finishes), **self._head)

    def opening(self, index: int) -> Reply | None:
        echo = self._echo(index)
        return self._chunk(TextChoice(index, echo)) if echo else None

    def piece(self, index: int, delta: Delta) -> Reply:
        logprobs = self._logprobs(index, logprobs_of(delta))
        if not delta.token_ids:
            self._lengths[index] += len(delta.text)
        return self._chunk(TextChoice(index, delta.text, logprobs))

    def ending(self, index: int, finish: Finish) -> Reply:
        return self._chunk(TextChoice(index, "", finish_reason=reason_of(finish)))

    def tally(self, finishes: list[Finish]) -> Reply:
        return TextReply(choices=[], usage=self._usage(finishes), **self._head)

    def _chunk(self, choice: TextChoice) -> Reply:
        return TextReply(choices=[choice], usage=self._no_usage, **self._head)

    def _echo(self, index: int) -> str:
        return (self.asked.requests[index].prompt or "") if self.asked.echo else ""

    def _logprobs(self, index: int, tokens: list[TokenLogprob]) -> CompletionLogprobs | None:
        offsets = []
        for each in tokens:
            offsets.append(self._lengths[index])
            self._lengths[index] += len(each.token)
        if not self.asked.logprobs:
            return None
        texts, values = [each.token for each in tokens], [each.logprob for each in tokens]
        return CompletionLogprobs(texts, values, offsets)


def _finishes(choices: list[Gathered]) -> list[Finish]:
    finishes = [each.finish for each in choices if each.finish is not None]
    assert len(finishes) == len(choices), "a reply is written when every choice has ended"
    return finishes
