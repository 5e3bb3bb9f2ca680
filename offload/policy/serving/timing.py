"""How long either side would take, from what it took before."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Protocol, runtime_checkable

from offload.messages import Finish, Request

_KEEP = 32
_CHARS_PER_TOKEN = 4.0  # until a prompt has been counted


class Reachable(Protocol):
    """What a link knows of its cloud without asking it; None is not yet known."""

    @property
    def healthy(self) -> bool: ...
    @property
    def rtt_s(self) -> float | None: ...
    @property
    def queue_s(self) -> float | None: ...
    @property
    def first_piece_s(self) -> float | None: ...


@runtime_checkable
class MeasuredCloud(Protocol):
    """An engine on another machine, which knows how that machine stands."""

    def standing(self) -> Reachable:
        """Return what is known now; nothing is sent for it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Times:
    """Predicted seconds to the first token and to the last; None where nothing is known."""

    first_s: float | None = None
    whole_s: float | None = None


class Clock:
    """One side's last answers: how long until the first token, and how long for each other."""

    def __init__(self) -> None:
        self._first_s: deque[float] = deque(maxlen=_KEEP)
        self._first_per_prompt_token_s: deque[float] = deque(maxlen=_KEEP)
        self._per_token_s: deque[float] = deque(maxlen=_KEEP)
        self._num_tokens: deque[int] = deque(maxlen=_KEEP)
        self._chars_per_token: deque[float] = deque(maxlen=_KEEP)

    def note(self, request: Request, finish: Finish, *, first_s: float, whole_s: float) -> None:
        """Take one finished answer, timed where it was read."""
        usage, number = finish.usage, finish.usage.completion_tokens
        self._first_s.append(first_s)
        if usage.prompt_tokens > 0:
            self._first_per_prompt_token_s.append(first_s / usage.prompt_tokens)
            if chars := num_chars(request):  # token ids have none, and say nothing of texts
                self._chars_per_token.append(chars / usage.prompt_tokens)
        if number > 1:
            self._per_token_s.append((whole_s - first_s) / (number - 1))
        self._num_tokens.append(number)

    def near(self, request: Request) -> Times:
        """Predict a device's answer: the first token takes longer the longer the prompt is."""
        if not self._first_s:
            return Times()
        tokens = len(request.prompt_token_ids) or (
            num_chars(request) / _middle(self._chars_per_token, _CHARS_PER_TOKEN)
        )
        first = tokens * _middle(self._first_per_prompt_token_s, 0.0) or median(self._first_s)
        return Times(first_s=first, whole_s=first + self._rest_s(request))

    def far(self, request: Request, cloud: object) -> Times:
        """Predict a server's answer: what counts there is the way and the queue."""
        known = cloud.standing() if isinstance(cloud, MeasuredCloud) else None
        first = median(self._first_s) if self._first_s else _told(known)
        if first is None:
            return Times()
        if known is not None and known.queue_s is not None and known.rtt_s is not None:
            # A queue that has grown since is felt at once, not after some more answers.
            first = max(first, known.rtt_s + known.queue_s)
        whole = first + self._rest_s(request) if self._first_s else None
        return Times(first_s=first, whole_s=whole)

    def _rest_s(self, request: Request) -> float:
        wanted = min(_middle(self._num_tokens, 64), request.sampling.max_tokens)
        return _middle(self._per_token_s, 0.0) * max(0.0, wanted - 1)


def num_chars(request: Request) -> int:
    """Return the length of all text that a model would read; token ids have none."""
    return len(request.prompt or "") + sum(len(each.content) for each in request.messages)


def _middle(values: deque[float] | deque[int], otherwise: float) -> float:
    return float(median(values)) if values else otherwise


def _told(known: Reachable | None) -> float | None:
    if known is None or known.rtt_s is None or known.first_piece_s is None:
        return None
    return known.rtt_s + known.first_piece_s
