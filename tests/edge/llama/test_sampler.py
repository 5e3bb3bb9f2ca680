from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from backbone.errors import CheckpointError
from edge.llama.context import Context, ContextParams
from edge.llama.native_handles import Model
from edge.llama.sampler import ConfidenceGauge, Sampler
from edge.llama.vocabulary import LlamaVocabulary
from offload.messages import Sampling

Moment = tuple[LlamaVocabulary, np.ndarray]


@given(
    logits=arrays.arrays(np.float32, 40, elements=st.floats(-30, 30, width=32)),
    token=st.integers(0, 39),
)
@settings(max_examples=100, deadline=None)
def test_confidence_equals_the_float64_definition(logits: np.ndarray, token: int) -> None:
    exact = logits.astype(np.float64)
    logprobs = exact - exact.max() - np.log(np.exp(exact - exact.max()).sum())
    top = np.sort(logprobs)
    found = ConfidenceGauge(40).measure(logits, token, int(logits.argmax()))
    assert found.logprob == pytest.approx(logprobs[token], abs=1e-4)
    assert found.entropy == pytest.approx(-(np.exp(logprobs) * logprobs).sum(), abs=1e-4)
    assert found.margin == pytest.approx(top[-1] - top[-2], abs=1e-4)


def test_forbidden_tokens_do_not_spoil_the_confidence() -> None:
    logits = np.array([0.0, -np.inf, 0.0, -np.inf], np.float32)
    found = ConfidenceGauge(4).measure(logits, 2, 0)
    assert found.logprob == pytest.approx(-np.log(2))
    assert found.entropy == pytest.approx(np.log(2))
    assert found.margin == 0.0


def test_measuring_leaves_the_logits_as_they_were() -> None:
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    ConfidenceGauge(3).measure(logits, 0, 1)
    assert logits.tolist() == [1.0, 3.0, 2.0]


def test_logits_that_are_no_numbers_are_refused() -> None:
    logits = np.array([1.0, np.nan, 2.0], np.float32)
    with pytest.raises(CheckpointError, match="not a number"):
        ConfidenceGauge(3).measure(logits, 0, int(logits.argmax()))


@pytest.fixture
def moment(tiny_gguf: Path):
    """A vocabulary and the logits after some text."""
    with Model(tiny_gguf) as model, Context(model, ContextParams(num_tokens=64)) as context:
        context.decode(model.vocabulary.tokenize("hello"), 0)
        yield model.vocabulary, context.logits().copy()


def _choices(moment: Moment, sampling: Sampling, count: int = 200) -> list[int]:
    vocabulary, logits = moment
    sampler = Sampler(sampling, vocabulary, ConfidenceGauge(vocabulary.num_tokens))
    return [sampler.next(logits)[0] for _ in range(count)]


def test_greedy_takes_the_peak(moment: Moment) -> None:
    assert set(_choices(moment, Sampling(), 3)) == {int(moment[1].argmax())}


def test_native_greedy_agrees_with_the_short_way(moment: Moment) -> None:
    with_penalty = Sampling(repetition_penalty=1.0001)
    assert _choices(moment, with_penalty, 1) == _choices(moment, Sampling(), 1)


def test_same_seed_same_choices_and_another_seed_others(moment: Moment) -> None:
    first = _choices(moment, Sampling(temperature=1.0, seed=7))
    assert first == _choices(moment, Sampling(temperature=1.0, seed=7))
    assert first != _choices(moment, Sampling(temperature=1.0, seed=8))


def test_without_a_seed_answers_differ(moment: Moment) -> None:
    free = Sampling(temperature=1.0)
    assert _choices(moment, free) != _choices(moment, free)


def test_top_k_limits_the_choice_to_the_k_best(moment: Moment) -> None:
    best = set(np.argsort(moment[1])[-3:].tolist())
    found = _choices(moment, Sampling(temperature=2.0, top_k=3, seed=1))
    assert set(found) == best


def test_top_p_keeps_the_smallest_set_that_holds_p(moment: Moment) -> None:
    logits = moment[1].astype(np.float64)
    weights = np.exp(logits - logits.max())
    order = np.argsort(-weights)
    cumulative = np.cumsum(weights[order]) / weights.sum()
    allowed = set(order[: int((cumulative < 0.3).sum()) + 1].tolist())
    assert set(_choices(moment, Sampling(temperature=1.0, top_p=0.3, seed=1), 600)) <= allowed


def test_min_p_drops_what_is_far_below_the_best(moment: Moment) -> None:
    logits = moment[1].astype(np.float64)
    allowed = set(np.flatnonzero(np.exp(logits - logits.max()) >= 0.5).tolist())
    assert set(_choices(moment, Sampling(temperature=1.0, min_p=0.5, seed=1))) <= allowed


def test_samples_follow_the_distribution(moment: Moment) -> None:
    logits = moment[1].astype(np.float64)
    weights = np.exp(logits - logits.max())
    best = int(weights.argmax())
    count = Counter(_choices(moment, Sampling(temperature=1.0, seed=3), 4000))[best]
    share = weights[best] / weights.sum()
    assert abs(count - 4000 * share) < 5 * np.sqrt(4000 * share * (1 - share)) + 1


def test_penalty_counts_the_prompt(moment: Moment) -> None:
    best = int(moment[1].argmax())
    assert moment[1][best] > 0, "a positive logit is divided by the penalty"
    vocabulary, logits = moment
    sampling = Sampling(repetition_penalty=10.0)
    sampler = Sampler(sampling, vocabulary, ConfidenceGauge(vocabulary.num_tokens))
    sampler.remember([best])
    assert sampler.next(logits)[0] != best


def test_confidence_is_of_the_unmodified_distribution(moment: Moment) -> None:
    vocabulary, logits = moment
    gauge = ConfidenceGauge(vocabulary.num_tokens)
    found = []
    for temperature in (0.0, 0.01):
        sampling = Sampling(temperature=temperature, top_k=1, seed=1)
        found.append(Sampler(sampling, vocabulary, gauge).next(logits))
    assert found[0] == found[1]
