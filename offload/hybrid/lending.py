"""Lending: a near answer whose doubtful places the far model writes, in visits of a few tokens.

The near model goes on while a visit is under way, so that nothing is lost where it brings nothing.
Text is shown at the ends of words, and what was shown stands: each visit begins behind it.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from offload.engine import AnswerStream
from offload.errors import CloudFailed, LinkError, Unsupported
from offload.hybrid.visit_gate import VisitGate
from offload.messages import Delta, Finish, Request, Usage
from offload.policy.serving.lend import LendRule, LendWatch
from offload.thinking import split

_VISIT_S = 20.0  # at most: the near model has gone on by itself, and is not waited with longer
_WHOLE_WORDS = re.compile(r".*[\s\u3001-\u30ff\u3400-\u9fff\uff01-\uff60]", re.DOTALL)
_NUMBER = re.compile(r"\s*[\d.,]+")

Source = Callable[[Request], AnswerStream]


def whole_words(text: str) -> str:
    """Return the part of a text whose last word is surely whole, without the blanks behind it."""
    found = _WHOLE_WORDS.match(text)
    return found[0].rstrip(" ") if found else ""


@dataclass(frozen=True)
class Visit:
    """A visit's outcome: what the far model wrote, and whether the answer ends with it."""

    text: str
    ends: bool


class Lending:
    """Lending in one answer, and what it came to: visits, far tokens, what left, and its failure.

    `gate` says of each visit whether it may be made; `most_s` is how many seconds all of them may
    take, what a whole far answer would.
    """

    def __init__(
        self,
        request: Request,
        *,
        rule: LendRule,
        num_tokens: int,
        watch: LendWatch,
        gate: VisitGate,
        most_s: float | None = None,
    ) -> None:
        """Take the request, how it is helped, and how many tokens a visit brings."""
        self._request, self._rule, self._watch, self._gate = request, rule, watch, gate
        self._visit_len, self._left_s = num_tokens, math.inf if most_s is None else most_s
        self._text = ""  # as far as the reader has it
        self._held: list[Delta] = []  # behind it, to the end of the word
        self._num_near = 0  # tokens, as the far ones below
        self._visited = -1  # the length of the text at the last visit
        self._is_closed = False
        self.num_visits = self.num_lent = 0
        self.usage = Usage()  # of the visits
        self.failure: LinkError | None = None

    async def stream(self, near: Source, far: Source) -> AnswerStream:
        """Stream the answer; what the far model wrote says so (Delta.source)."""
        began = time.monotonic()
        visit: Visit | None = Visit("", ends=False)
        while visit is not None and not visit.ends and self._num_left > 0:
            visit, segment_s = None, time.monotonic() - began
            async with aclosing(near(self._behind(self._text))) as items:
                async for item in items:
                    if isinstance(item, Finish):
                        for piece in self._rest():
                            yield piece
                        yield self._summed(item, segment_s)
                        return
                    if self._is_doubtful(item):
                        visit = await self._visit(item, far)
                    if visit is not None:
                        break
                    for piece in self._taken(item):
                        yield piece
            if visit is None:
                return  # the engine has ended without a word, which its reader will tell
            yield self._lent(visit)
        ended = Finish(reason="stop" if visit is not None and visit.ends else "length")
        yield self._summed(ended, time.monotonic() - began)

    @property
    def _num_left(self) -> int:
        return self._request.sampling.max_tokens - self._num_near - self.num_lent

    def _behind(self, text: str, num_tokens: int | None = None) -> Request:
        """Return the request for what stands behind a part of the answer."""
        asked = self._request.sampling
        most = self._num_left if num_tokens is None else min(num_tokens, self._num_left)
        least = max(0, asked.min_tokens - self._num_near - self.num_lent)
        sampling = msgspec.structs.replace(asked, max_tokens=most, min_tokens=min(least, most))
        begun = self._request.answer_prefix + text
        return msgspec.structs.replace(self._request, answer_prefix=begun, sampling=sampling)

    def _is_doubtful(self, item: Delta) -> bool:
        if self._is_closed or not self._watch.is_useful or not item.confidence:
            return False
        before = self._text + "".join(each.text for each in self._held)
        if not self._rule.doubts(before, item.text, item.confidence[0].logprob):
            return False
        if split(before).thought and not split(before).answer.strip():
            return False  # from unfinished thoughts no other model goes on
        affords = self._rule.affords(self.num_lent, self._num_near + len(self._held))
        return affords and self._num_left > 1 and self._left_s > 0.0

    def _start(self, item: Delta) -> str:
        """Return the text from which a visit would go on: up to the word that `item` writes."""
        behind = "".join(each.text for each in self._held)
        opens = item.text[:1]
        if behind and (opens.isspace() or not opens):
            return self._text + behind
        return self._text + whole_words(behind)

    async def _visit(self, item: Delta, far: Source) -> Visit | None:
        """Return what the far model writes in place of a doubtful token; None to go on near."""
        start = self._start(item)
        request = self._behind(start, self._visit_len)
        number = self.num_visits + 1
        request = msgspec.structs.replace(request, id=f"{self._request.id[:56]}.{number}")
        if len(start) <= self._visited or not await self._gate.lets(request, self.usage):
            return None
        self.num_visits, self._visited = number, len(start)
        visit = await self._made(request, far)
        if visit is not None:
            self._hold_to(start)
        return visit

    async def _made(self, request: Request, far: Source) -> Visit | None:
        """Make a visit; where it fails no other is made in this answer, whose rest is near."""
        began = time.monotonic()
        try:
            visit = await asyncio.wait_for(self._read(request, far), _VISIT_S)
        except Unsupported:
            self._watch.is_unsupported()
            return None
        except (LinkError, asyncio.TimeoutError) as error:
            late = CloudFailed("the far model took too long for a few words; ask again")
            self._is_closed, self.failure = True, error if isinstance(error, LinkError) else late
            return None
        self._left_s -= time.monotonic() - began
        self._watch.note(useful=visit is not None)
        return visit

    async def _read(self, request: Request, far: Source) -> Visit | None:
        text = ""
        async with aclosing(far(request)) as items:
            async for item in items:
                if isinstance(item, Delta):
                    text = item.apply(text)
                    continue
                self._count(item.usage)
                if item.reason == "error":
                    raise CloudFailed(item.error or "the far model could not go on; ask again")
                return _as_visit(text, begun=request.answer_prefix, ends=item.reason == "stop")
        raise CloudFailed("the far model ended without saying so; ask again")

    def _count(self, usage: Usage) -> None:
        self.num_lent += usage.completion_tokens
        self.usage = self.usage.plus(usage)

    def _taken(self, item: Delta) -> Iterator[Delta]:
        """Hold a near piece, and yield what is known to be whole words."""
        self._held.append(item)
        whole = len(whole_words("".join(each.text for each in self._held)))
        while self._held and len(self._held[0].text) <= whole:
            whole -= len(self._held[0].text)
            yield self._shown(self._held.pop(0))

    def _rest(self) -> Iterator[Delta]:
        while self._held:
            yield self._shown(self._held.pop(0))

    def _hold_to(self, start: str) -> None:
        """Keep of what is held only what stands before a visit, as text alone."""
        kept = start[len(self._text) :]
        self._held = [Delta(text=kept)] if kept else []

    def _lent(self, visit: Visit) -> Delta:
        text = "".join(each.text for each in self._rest()) + visit.text
        self._text += visit.text
        return Delta(text=text, index=self._num_near + self.num_lent, source="cloud")

    def _shown(self, item: Delta) -> Delta:
        self._text += item.text
        shown = msgspec.structs.replace(
            item, index=self._num_near + self.num_lent, source="edge", replaces=False
        )
        self._num_near += len(item.token_ids)
        return shown

    def _summed(self, ended: Finish, earlier_s: float) -> Finish:
        """Return the end of the last part as that of the whole answer."""
        usage = msgspec.structs.replace(
            ended.usage,
            completion_tokens=self._num_near + self.num_lent,
            decode_s=ended.usage.decode_s + earlier_s,
        )
        return msgspec.structs.replace(ended, usage=usage)


def _as_visit(text: str, *, begun: str, ends: bool) -> Visit | None:
    """Return what a visit brought, up to its last whole word; None where that is nothing."""
    if text.lstrip().startswith(("<think>", "[THINK]")):
        return None  # thoughts of another model are no step of this answer
    whole = text if ends else whole_words(text)
    if not whole and _NUMBER.fullmatch(text):
        whole = text
    return Visit(whole, ends) if whole.strip() or (ends and begun) else None
