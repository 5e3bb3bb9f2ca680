"""Monitor of one near answer while it is written: it says when the cloud should be asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from offload.messages import Delta, Usage
from offload.policy.serving.failsafe import Failsafe
from offload.policy.serving.flags import circle_start, flags, seen_while_written
from offload.policy.serving.rule import Estimate, Limit, PromptEstimate, Rule
from offload.policy.serving.signals import Signals

_LOOK_EVERY = 16  # tokens
_STUCK = 90  # characters said again


class Monitor:
    """Monitor of one answer's signals against its request's limit; once tripped, it stays so."""

    def __init__(
        self,
        rule: Rule,
        limit: Limit,
        expected: PromptEstimate | None = None,
        *,
        question: str = "",
        wants_json: bool = False,
        failsafe: Failsafe | None = None,
    ) -> None:
        self._rule, self._limit = rule, limit
        self._failsafe = failsafe or Failsafe()
        self.expected = expected or PromptEstimate()
        self._question, self._wants_json = question, wants_json
        self._signals, self._look_at = Signals(), _LOOK_EVERY
        self._sure_chars = 0
        self._began_s = time.monotonic()
        self._seen_s: tuple[float, float] | None = None  # when the first and the last piece came
        self._states: list[Any] = []
        self.flags: tuple[str, ...] = ()
        self.tripped = False
        self.stuck = False  # in circles, so that no further token is worth writing
        self.concluded = False

    @property
    def num_tokens(self) -> int:
        return self._signals.num_tokens

    @property
    def text(self) -> str:
        """Return the answer as far as it has come."""
        return self._signals.text

    def usage(self) -> Usage:
        """Return what the answer has taken so far, as it was seen here."""
        first_s, last_s = self._seen_s or (self._began_s, self._began_s)
        return Usage(
            completion_tokens=self.num_tokens,
            prefill_s=first_s - self._began_s,
            decode_s=last_s - first_s,
        )

    @property
    def signals(self) -> Signals:
        """Return the answer as far as it has come, and how sure the model was of each token."""
        return self._signals

    @property
    def least_logprob(self) -> float:
        """Return the log-probability of the least likely token so far, in nats."""
        return self._signals.least

    @property
    def sure_text(self) -> str:
        """Return the answer up to its least sure token, where the doubt arose."""
        return self._signals.text[: self._sure_chars]

    def num_in_circles(self) -> int:
        """Return how many characters at the end only say again what stands before them.

        0 for a few: a row of zeros or a refrain is said again on purpose.
        """
        text = self._signals.text
        count = len(text) - circle_start(text)
        return count if count >= _STUCK else 0

    def state(self, index: int, state: Any) -> None:
        """Take the hidden state behind a token (offload/engine.py, StateObserver)."""
        self._states.append(state)

    def see(self, delta: Delta) -> None:
        """Take the newest piece of the answer."""
        now_s = time.monotonic()
        self._seen_s = (self._seen_s[0] if self._seen_s else now_s, now_s)
        self._failsafe(lambda: self._see(delta), None)

    def _see(self, delta: Delta) -> None:
        before, least = len(self._signals.text), self._signals.least
        tokens, text = delta.confidence, delta.text
        for place, token in enumerate(tokens):
            begin, end = (round(at * len(text) / len(tokens)) for at in (place, place + 1))
            self._signals.take((token,), text[begin:end])
            if not self.tripped:
                self.tripped = self._rule.gives_up(self._signals, self.expected, self._limit)
        if not tokens:
            self._signals.take((), text)
        if self._signals.least < least:
            self._sure_chars = before
        if self._signals.num_tokens >= self._look_at:
            self._look_at += _LOOK_EVERY
            self.flags = seen_while_written(self._signals.text, self._question)
            self.tripped = self.tripped or bool(self.flags)
            self.stuck = "circles" in self.flags and self.num_in_circles() > 0

    def conclude(self, ended: str = "stop") -> None:
        """Judge the finished answer; `ended` is why it ended (FinishReason)."""
        self.concluded = True
        self._failsafe(lambda: self._conclude(ended), None)

    def _conclude(self, ended: str) -> None:
        self.flags = flags(
            self._signals.text,
            question=self._question,
            ended=ended,
            wants_json=self._wants_json,
        )
        self.tripped = self.tripped or self._limit.passed_by(self._estimate())

    def estimate(self) -> Estimate | None:
        """Return what the answer is worth as far as it has come; None where that failed."""
        return self._failsafe(self._estimate, None)

    def _estimate(self) -> Estimate:
        states: Sequence[Any] = self._states if self.concluded else ()
        return self._rule.judge(self._signals, self.expected, flags=self.flags, states=states)
