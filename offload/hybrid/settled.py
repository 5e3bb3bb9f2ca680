"""Settled answers: only what a reader may keep, of a hybrid that may take its text back."""

from __future__ import annotations

import itertools
from contextlib import aclosing

import msgspec

from offload.engine import AnswerStream, Engine, Routing, settling
from offload.errors import CloudFailed
from offload.hybrid.handover import accepted
from offload.messages import Delta, Finish, ModelCard, Request, Side

_BROKEN_OFF = "the far model failed in the middle of its answer; ask again"
_MOST_HELD = 64  # characters of a far answer, such as a long address, that wait for a word's end


class SettledEngine:
    """An engine whose text stands once it is said, over any: for devices that ask it as far side.

    Closing it closes that engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def card(self) -> ModelCard:
        """Return the engine's card."""
        return self._engine.card()

    def generate(self, request: Request) -> AnswerStream:
        """Stream the answer as `settled_answer` does."""
        return settled_answer(self._engine, request)

    async def aclose(self) -> None:
        """Close the engine."""
        await self._engine.aclose()


def settled_answer(engine: Engine, request: Request) -> AnswerStream:
    """Stream an engine's answer for a reader who can take no text back."""
    may_replace = isinstance(engine, Routing) and engine.may_replace(request)
    return settled(settling(engine, request), may_replace=may_replace)


async def settled(stream: AnswerStream, *, may_replace: bool) -> AnswerStream:
    """Yield only what a reader may keep; text that may be withdrawn waits until it may not.

    With `may_replace` that is the near side's text until it is accepted (Delta.accepted) or ends,
    and the far side's last word: where the far side dies, the near one goes on behind a whole one.
    A near answer that cuts off its own end stands as it was passed on: a stream has no word for
    that. Raises CloudFailed where other text that was passed on is withdrawn after all.
    """
    text = _PassedText(holds=may_replace)
    async with aclosing(stream) as items:
        async for item in items:
            for each in text.take(item):
                yield each


class _PassedText:
    """What a reader has of one answer, and the pieces that wait behind it."""

    def __init__(self, *, holds: bool) -> None:
        self._holds = holds
        self._held: list[Delta] = []
        self._passed = ""
        self._has_passed = False  # tokens without a text count, too
        self._writer: Side | None = None  # of what was passed on last

    def take(self, item: Delta | Finish) -> list[Delta | Finish]:
        """Take the next item; return what may be passed on by now."""
        if isinstance(item, Finish):
            return [*self._pass(len(self._held)), item]
        if item.replaces:
            return self._replace(item)
        self._held.append(item)
        return [*self._pass(self._num_free(item))]

    def _num_free(self, last: Delta) -> int:
        """Return how many of the pieces that wait are no longer in doubt."""
        is_near = last.source != "cloud"
        if not self._holds or (is_near and self._has_passed and self._writer == "cloud"):
            return len(self._held)  # behind a far text, the near one has the last word
        if is_near:
            return self._num_accepted((last.accepted or 0) - len(self._passed))
        whole = len(accepted("".join(each.text for each in self._held)))
        waiting = sum(len(each.text) for each in self._held)
        for number, each in reversed(list(enumerate(self._held, 1))):
            if waiting <= whole or waiting > whole + _MOST_HELD:
                return number
            waiting -= len(each.text)
        return 0

    def _num_accepted(self, num_chars: int) -> int:
        ends = itertools.accumulate(len(each.text) for each in self._held)
        return sum(1 for _ in itertools.takewhile(lambda end: end <= num_chars, ends))

    def _pass(self, count: int) -> list[Delta]:
        free, self._held = self._held[:count], self._held[count:]
        self._passed += "".join(each.text for each in free)
        for each in free:
            self._has_passed = self._has_passed or bool(each.text or each.token_ids)
            self._writer = each.source or self._writer
        return free

    def _replace(self, item: Delta) -> list[Delta | Finish]:
        cuts_own_end = item.source == "edge" and self._writer != "cloud"
        if self._has_passed and cuts_own_end and self._passed.startswith(item.text):
            self._held = []
            return []
        if self._has_passed and not item.text.startswith(self._passed):
            raise CloudFailed(_BROKEN_OFF)
        rest = item.text[len(self._passed) :]
        self._held = [msgspec.structs.replace(item, text=rest, replaces=False)]
        return [*self._pass(self._num_free(item))]
