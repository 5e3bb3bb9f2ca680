"""Signals kept up token by token are those of the whole answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offload.messages import Confidence
from offload.policy.serving.signals import NAMES, Signals


def _answer(seed: int, length: int) -> list[Confidence]:
    generator = np.random.default_rng(seed)
    return [
        Confidence(-float(a), float(b), float(c))
        for a, b, c in generator.gamma(1.0, 1.0, (length, 3))
    ]


@pytest.mark.parametrize("length", [1, 2, 7, 60])
def test_signals_are_those_numpy_finds_in_the_whole_answer(length: int) -> None:
    tokens = _answer(length, length)
    signals = Signals()
    for token in tokens:
        signals.take([token])
    found = dict(zip(NAMES, signals.features(), strict=True))
    logprobs = np.array([token.logprob for token in tokens])
    for name, share in (("least", 0.0), ("tenth", 0.1), ("quarter", 0.25), ("half", 0.5)):
        assert found[name] == pytest.approx(math.log(-np.quantile(logprobs, share) + 1e-4))
    assert found["mean"] == pytest.approx(math.log(-logprobs.mean() + 1e-4))
    assert found["margin_min"] == pytest.approx(min(token.margin for token in tokens))
    assert found["entropy_max"] == pytest.approx(
        math.log(max(token.entropy for token in tokens) + 1e-4)
    )
    assert found["place_of_least"] == pytest.approx(logprobs.argmin() / length)


def test_what_is_no_number_counts_as_the_worst() -> None:
    signals = Signals()
    signals.take([Confidence(math.nan, math.nan, math.nan), Confidence(-math.inf, math.inf, -1.0)])
    assert signals.least == -30.0
    assert all(math.isfinite(each) for each in signals.features())


def test_an_answer_without_tokens_has_finite_signals() -> None:
    assert all(math.isfinite(each) for each in Signals().features())
    assert len(Signals().features()) == len(NAMES)
