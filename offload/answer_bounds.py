"""Answer bounds: what an answer from elsewhere may hold, measured by what was asked for.

Whoever answers may be broken or hostile. More text than was asked for fills the memory of whoever
reads it, and a number that cannot be spoils what is reckoned from it: budgets, the policy, metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from offload.errors import CloudFailed
from offload.messages import (
    MAX_NAME_LEN,
    MAX_PROMPT_TOKENS,
    Confidence,
    Delta,
    Finish,
    Request,
    Route,
)
from offload.reasons import REASONS

MAX_TOKEN_CHARS = 512  # of one token: vocabularies have runs of 256 equal signs
SPARE_CHARS = 4096  # of marks around thoughts and calls
MAX_WITHDRAWN = 8  # times that an answer is begun anew
_MAX_ALTERNATIVES = 21  # at one place: OpenAI's most, and the token itself
_LEAST_NATS = -1e4
_MAX_SECONDS, _MAX_BYTES, _MAX_COST = 86_400.0, 1 << 53, 1e9
# Of Usage, with completion_tokens, whose bounds are the answer's own.
_MOST: Mapping[str, int | float] = {
    "prompt_tokens": MAX_PROMPT_TOKENS,
    "cached_tokens": MAX_PROMPT_TOKENS,
    "queue_s": _MAX_SECONDS,
    "prefill_s": _MAX_SECONDS,
    "decode_s": _MAX_SECONDS,
    "bytes_sent": _MAX_BYTES,
    "bytes_received": _MAX_BYTES,
    "cost": _MAX_COST,
    "placeholders_in_links": MAX_PROMPT_TOKENS,
}


class AnswerBounds:
    """Bounds of one answer; `take` is told each piece, `end` how it ended."""

    def __init__(self, request: Request) -> None:
        # A hybrid's answer may hold the tokens of both its models.
        self._max_tokens = 2 * request.sampling.max_tokens
        self._max_chars = MAX_TOKEN_CHARS * request.sampling.max_tokens + SPARE_CHARS
        self._wants_prompt = request.sampling.prompt_logprobs
        self._num_tokens = self._num_chars = self._num_withdrawn = self._num_gone = 0

    def take(self, delta: Delta) -> Delta:
        """Return a piece with numbers that can be. Raises CloudFailed for more than was asked."""
        if delta.replaces:
            self._num_withdrawn += 1
            self._num_gone += self._num_tokens
            self._num_tokens = self._num_chars = 0
        self._num_tokens += max(map(len, (delta.token_ids, delta.confidence, delta.alternatives)))
        self._num_chars += len(delta.text)
        if self._is_too_much(delta):
            raise CloudFailed("it is more than was asked for, and not believed; ask another model")
        if all(map(_can_be, delta.confidence)):
            return delta
        return msgspec.structs.replace(delta, confidence=tuple(map(_nearest, delta.confidence)))

    def _is_too_much(self, delta: Delta) -> bool:
        return (
            self._num_tokens > self._max_tokens
            or self._num_chars > self._max_chars
            or self._num_withdrawn > MAX_WITHDRAWN
            or any(len(each) > _MAX_ALTERNATIVES for each in delta.alternatives)
            or (bool(delta.prompt_tokens) and not self._wants_prompt)
        )

    def end(self, finish: Finish) -> Finish:
        """Return the end with figures that can be: no more tokens than asked, no fewer than came.

        A reason that is none of offload/reasons.py is left out, with its route.
        """
        usage, seen = finish.usage, self._num_gone + self._num_tokens
        least = max(seen, -(-self._num_chars // MAX_TOKEN_CHARS))
        most = max(least, self._max_tokens * (1 + self._num_withdrawn))
        figures: dict[str, Any] = {
            name: _within(getattr(usage, name), 0, bound) for name, bound in _MOST.items()
        }
        figures["completion_tokens"] = _within(usage.completion_tokens, least, most)
        return msgspec.structs.replace(
            finish,
            usage=type(usage)(**figures),
            dropped_tokens=_within(finish.dropped_tokens, 0, MAX_PROMPT_TOKENS),
            route=_believed(finish.route),
        )


def _believed(route: Route | None) -> Route | None:
    if route is None or route.reason not in REASONS:
        return None
    onward = tuple(
        msgspec.structs.replace(hop, model=hop.model[:MAX_NAME_LEN])
        for hop in route.onward
        if hop.reason in REASONS
    )
    return msgspec.structs.replace(route, model=route.model[:MAX_NAME_LEN], onward=onward)


def _within(value: float, low: float, high: float) -> float:
    return low if math.isnan(value) else type(value)(min(max(value, low), high))


def _can_be(one: Confidence) -> bool:
    return _LEAST_NATS <= one.logprob <= 0.0 <= one.entropy <= -_LEAST_NATS and (
        0.0 <= one.margin <= -_LEAST_NATS
    )


def _nearest(one: Confidence) -> Confidence:
    return Confidence(
        logprob=_within(one.logprob, _LEAST_NATS, 0.0),
        entropy=_within(one.entropy, 0.0, -_LEAST_NATS),
        margin=_within(one.margin, 0.0, -_LEAST_NATS),
    )
