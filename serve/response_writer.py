"""Response writer: the protocol by which each path writes its replies, and gathered answers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from msgspec import UNSET, Struct, UnsetType

from offload.messages import Delta, Finish, PromptToken
from serve.http_errors import EngineBroke
from serve.logprobs import TokenLogprob, grown, logprobs_of
from serve.request_parsing import ParsedRequest
from serve.response_bodies import UsageReply, usage_of


@dataclass
class Gathered:
    """Gathered choice: its text and tokens so far; what is withdrawn is forgotten."""

    finish: Finish | None = None
    texts: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    read: list[PromptToken] = field(default_factory=list)

    def take(self, item: Delta | Finish) -> None:
        """Add the next item of the answer."""
        if isinstance(item, Finish):
            self.finish = item
            return
        if item.replaces:
            self.texts.clear()
            self.tokens.clear()
            self.read.clear()
        self.texts.append(item.text)
        logprobs = logprobs_of(item)
        if item.text and not logprobs and self.tokens:
            self.tokens[-1] = grown(self.tokens[-1], item.text)
        self.tokens += logprobs
        self.read += item.prompt_tokens

    @property
    def text(self) -> str:
        return "".join(self.texts)


ReplyPart = Struct | dict[str, Any]  # a reply, or an event of one


class _Head(TypedDict):
    id: str
    created: int
    model: str


class ResponseWriter(ABC):
    """Response writer: the reply to one request, whole or in chunks."""

    prefix = ""  # of the reply's id

    def __init__(self, parsed: ParsedRequest) -> None:
        self.parsed = parsed
        self._head = _Head(
            id=f"{self.prefix}-{parsed.requests[0].id}",
            created=int(time.time()),
            model=parsed.model,
        )
        # Where usage is asked for, every other chunk says that it has none.
        self._no_usage: UnsetType | None = None if parsed.include_usage else UNSET

    @abstractmethod
    def whole(self, choices: list[Gathered]) -> ReplyPart:
        """Return the reply of a request that does not stream."""

    @abstractmethod
    def opening(self, index: int, first: Delta | Finish) -> Sequence[ReplyPart]:
        """Return what a choice begins with, before its text; `first` is its first item."""

    @abstractmethod
    def pieces(self, index: int, delta: Delta) -> Sequence[ReplyPart]:
        """Return the chunks that a Delta is worth."""

    @abstractmethod
    def ending(self, index: int, finish: Finish) -> Sequence[ReplyPart]:
        """Return the chunks that end a choice."""

    @abstractmethod
    def tally(self, finishes: list[Finish]) -> ReplyPart:
        """Return the chunk after all choices, which says what they took."""

    def _is_worth_saying(self, delta: Delta) -> bool:
        return bool(delta.text) or (self.parsed.logprobs and bool(delta.token_ids))

    def _usage(self, finishes: list[Finish]) -> UsageReply:
        return usage_of(finishes, self.parsed.per_prompt)

    def _tokens(self, delta: Delta) -> list[TokenLogprob]:
        """Return what is known of a Delta's tokens. Raises EngineBroke where less is than asked."""
        if self.parsed.num_alternatives and delta.token_ids and not delta.alternatives:
            raise EngineBroke("the engine gave no alternatives; ask without top_logprobs")
        return logprobs_of(delta)


def finishes_of(choices: list[Gathered]) -> list[Finish]:
    """Return the end of every choice."""
    finishes = [each.finish for each in choices if each.finish is not None]
    assert len(finishes) == len(choices), "a reply is written when every choice has ended"
    return finishes
