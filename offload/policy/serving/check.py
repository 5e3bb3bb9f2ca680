"""Check of a near answer: a far model reads it in one prefill, and writes none of its own.

How likely the far model finds the near model's words tells more about whether they are right than
all signals of the near model's own; its verdict in one word tells less, so it only stands in where
a server tells no likelihood of a given text (benchmarks/together.py).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from offload.errors import Unsupported
from offload.messages import Alternative, Message, PromptToken, Request, Sampling
from offload.policy.serving.logistic import chance, log_odds
from offload.policy.serving.rule import Estimate

_log = logging.getLogger("nearfar.policy")

QUESTION = "Is the answer above right? Reply with one word, yes or no."
# P(near right) from its log odds without the check and the log of the far model's mean nats per
# token, fitted to a 1.5B's reading of a 0.5B's answers ("weights" of benchmarks/together.json).
_BIAS, _NEAR, _NATS = -0.76, 0.80, -1.10
_FEWEST_NATS = 1e-3
_WATCHED = 20  # checks
_NUM_VERDICTS = 20  # likeliest words of a verdict


def check_request(request: Request, answer: str) -> Request:
    """Return the request by which a far model reads an answer: no more than one token is written.

    It begins as the question itself does, so that the far model's cache is warm for its own answer.
    """
    turns = (
        *request.messages,
        Message(role="assistant", content=answer),
        Message(role="user", content=QUESTION),
    )
    return msgspec.structs.replace(
        request,
        id=f"{request.id[:58]}.check",
        messages=turns,
        sampling=Sampling(max_tokens=1, logprobs=_NUM_VERDICTS, prompt_logprobs=True),
        scored_turn=len(request.messages),
        session=None,
    )


@dataclass(frozen=True)
class FarReading:
    """Far reading of a near answer by a far model: nats, ranks and entropies of its own tokens.

    Near and far may have different tokenizers; what is told is of the same text. `verdict` is the
    probability of "yes" among yes and no, None where neither was among the likeliest words.
    """

    tokens: tuple[PromptToken, ...]
    verdict: float | None

    @property
    def mean_logprob(self) -> float:
        """Return the mean log-probability of a token of the answer, in nats."""
        known = [each.logprob for each in self.tokens if each.logprob is not None]
        return sum(known) / len(known)


def read_answer(
    answer: str, tokens: Sequence[PromptToken], words: Sequence[Alternative]
) -> FarReading:
    """Return what a far model told of an answer. Raises Unsupported where that is not in it.

    An older cloud tells the tokens of the whole prompt: those of the answer are found by its text.
    """
    text, wanted = "".join(each.text for each in tokens), answer.strip()
    start = text.rfind(wanted) if wanted else -1
    if start < 0 and (not tokens or tokens[0].logprob is None):
        raise Unsupported("the far model does not tell how likely a given text is; leave it out")
    found, at = [], 0
    for each in tokens:
        # Where the text left with placeholders, the turn that was asked for is all that is told.
        if start < 0 or (at < start + len(wanted) and at + len(each.text) > start):
            found.append(each)
        at += len(each.text)
    if not any(each.logprob is not None for each in found):
        raise Unsupported("the far model told nothing of the answer; leave it out")
    return FarReading(tuple(found), _verdict(words))


def _verdict(words: Sequence[Alternative]) -> float | None:
    weights = {"yes": 0.0, "no": 0.0}
    for each in words:
        if (word := each.text.strip().lower()) in weights:
            weights[word] += math.exp(each.logprob)
    total = sum(weights.values())
    return weights["yes"] / total if total > 0.0 else None


def judged(estimate: Estimate, reading: FarReading) -> Estimate:
    """Return what a near answer is worth by both models' word. `estimate` says P(near right)."""
    assert estimate.right is not None, "a rule that tells no probability is not checked"
    nats = math.log(max(_FEWEST_NATS, -reading.mean_logprob))
    score = _BIAS + _NEAR * log_odds(estimate.right) + _NATS * nats
    return Estimate(score=score, right=chance(score), far=estimate.far)


class CheckWatch:
    """Watch over checks: a far model that accepts all or nothing is no longer asked to check."""

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=_WATCHED)
        self.is_useful = True

    def note(self, *, accepted: bool) -> None:
        """Take the outcome of a check."""
        self._last.append(accepted)
        if self.is_useful and len(self._last) == _WATCHED and len(set(self._last)) == 1:
            self.is_useful = False
            _log.warning(
                "nearfar: the far model %s the last %d near answers that it read, so it is no "
                "longer asked to check them until nearfar is started again",
                "accepted" if accepted else "rejected",
                _WATCHED,
            )

    def is_unsupported(self) -> None:
        """Take note that the far side cannot check."""
        self.is_useful = False
