"""Dispatch: which side starts on a request, from its prompt, the predicted times and the prices."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Literal, Protocol, runtime_checkable

from offload.messages import Finish, Request
from offload.policy.serving.rule import Limit, PromptEstimate

Start = Literal["near", "far", "both", "near_only"]

_ASSUMED_PROMPT_SHARE = 0.3  # characters a token, roughly: a price needs no more
_KEEP = 32
_CHARS_PER_TOKEN = 4.0  # until a prompt has been counted


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices of the cloud per million tokens, and the worth of a right answer, in one currency.

    `worth` of 0 says nothing: then the price decides nothing but what `max_cost` allows.
    """

    price_in: float = 0.0
    price_out: float = 0.0
    worth: float = 0.0

    def cost(self, num_prompt_tokens: float, num_answer_tokens: float) -> float:
        """Return what an answer costs."""
        return (num_prompt_tokens * self.price_in + num_answer_tokens * self.price_out) / 1e6

    def expected_cost(self, num_chars: int, max_tokens: int) -> float:
        """Return the most an answer is expected to cost, before it is asked for."""
        return self.cost(num_chars * _ASSUMED_PROMPT_SHARE, max_tokens)

    def in_gain(self, cost: float) -> float:
        """Return how much likelier right the cloud must be, so that it is worth its cost."""
        return cost / self.worth if self.worth > 0.0 else 0.0


@dataclass(frozen=True, kw_only=True)
class DispatchInputs:
    """Inputs of dispatch: what is expected of a request before it is begun."""

    expected: PromptEstimate
    near: PredictedTimes
    far: PredictedTimes
    deadline_s: float | None = None


def dispatch(
    inputs: DispatchInputs, limit: Limit, far_at_once_gain: float | None
) -> tuple[Start, str]:
    """Return who starts, and the reason code where that settles who answers.

    "near" lets the near model answer under watch; "near_only" does not ask far at all; "both" is
    the hedged start: near and far begin at once, since there would be no time for one after the
    other.
    """
    gain, deadline = inputs.expected.gain, inputs.deadline_s
    needed = gain is not None and gain > limit.max_need
    near_s, far_s = inputs.near.whole_s, inputs.far.whole_s
    if deadline is not None and near_s is not None and far_s is not None:
        if far_s > deadline:
            return "near_only", "no_time"
        if near_s > deadline:
            return "far", "deadline"
        if needed and near_s + far_s > deadline:
            return "both", "hedged"
    if needed and far_at_once_gain is not None and gain is not None and gain >= far_at_once_gain:
        return "far", "too_hard"
    return "near", "confident"


class CloudStatus(Protocol):
    """Status of a cloud as its link knows it without asking; None is not yet known."""

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
    """Engine on another machine that knows the status of that machine."""

    def snapshot(self) -> CloudStatus:
        """Return what is known now; nothing is sent for it."""
        ...


@dataclass(frozen=True, kw_only=True)
class PredictedTimes:
    """Predicted seconds to the first token and to the last; None where nothing is known."""

    first_s: float | None = None
    whole_s: float | None = None


class LatencyModel:
    """Latency of one side by its last answers: seconds to the first token and per token."""

    def __init__(self) -> None:
        self._first_s: deque[float] = deque(maxlen=_KEEP)
        self._first_per_prompt_token_s: deque[float] = deque(maxlen=_KEEP)
        self._per_token_s: deque[float] = deque(maxlen=_KEEP)
        self._num_tokens: deque[int] = deque(maxlen=_KEEP)
        self._chars_per_token: deque[float] = deque(maxlen=_KEEP)

    def note(self, request: Request, finish: Finish, *, first_s: float, whole_s: float) -> None:
        """Add one finished answer, timed where it was read."""
        usage, number = finish.usage, finish.usage.completion_tokens
        self._first_s.append(first_s)
        if usage.prompt_tokens > 0:
            self._first_per_prompt_token_s.append(first_s / usage.prompt_tokens)
            if chars := num_chars(request):  # token ids have none, and say nothing of texts
                self._chars_per_token.append(chars / usage.prompt_tokens)
        if number > 1:
            self._per_token_s.append((whole_s - first_s) / (number - 1))
        self._num_tokens.append(number)

    @property
    def token_s(self) -> float | None:
        """Return the seconds of one token, None while that is not known."""
        return median(self._per_token_s) if self._per_token_s else None

    def near(self, request: Request) -> PredictedTimes:
        """Predict a device's answer: the first token takes longer the longer the prompt is."""
        if not self._first_s:
            return PredictedTimes()
        tokens = len(request.prompt_token_ids) or (
            num_chars(request) / _middle(self._chars_per_token, _CHARS_PER_TOKEN)
        )
        first = tokens * _middle(self._first_per_prompt_token_s, 0.0) or median(self._first_s)
        return PredictedTimes(first_s=first, whole_s=first + self._rest_s(request))

    def far(self, request: Request, cloud: object) -> PredictedTimes:
        """Predict a server's answer: what counts there is the round trip and the queue."""
        known = cloud.snapshot() if isinstance(cloud, MeasuredCloud) else None
        first = median(self._first_s) if self._first_s else _first_by_link(known)
        if first is None:
            return PredictedTimes()
        if known is not None and known.queue_s is not None and known.rtt_s is not None:
            # A queue that has grown since is felt at once, not after some more answers.
            first = max(first, known.rtt_s + known.queue_s)
        whole = first + self._rest_s(request) if self._first_s else None
        return PredictedTimes(first_s=first, whole_s=whole)

    def _rest_s(self, request: Request) -> float:
        wanted = min(_middle(self._num_tokens, 64), request.sampling.max_tokens)
        return _middle(self._per_token_s, 0.0) * max(0.0, wanted - 1)


def num_chars(request: Request) -> int:
    """Return the length of all text that a model would read; token ids have none."""
    return len(request.prompt or "") + sum(len(each.content) for each in request.messages)


def _middle(values: deque[float] | deque[int], otherwise: float) -> float:
    return float(median(values)) if values else otherwise


def _first_by_link(known: CloudStatus | None) -> float | None:
    if known is None or known.rtt_s is None or known.first_piece_s is None:
        return None
    return known.rtt_s + known.first_piece_s
