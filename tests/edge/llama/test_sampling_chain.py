"""Choices from rows of logits, beside llama.cpp's own sampler chain."""

from __future__ import annotations

import ctypes
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.llama.library import llama
from edge.llama.sampling_chain import SamplingChain, largest
from offload.errors import RequestError
from offload.messages import Sampling

SIZES = (7, 300, 20_000)  # below and above what is summed in slices


def _logits(size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    row = rng.normal(0, 2, size).astype(np.float32)
    row[rng.integers(0, size, 12)] += rng.uniform(0, 12, 12).astype(np.float32)
    return row


def _chain(sampling: Sampling, row: np.ndarray, said: list[int]) -> dict[int, float]:
    """Return what llama.cpp's chain leaves of a row: tokens and their probabilities."""
    lib = llama()
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    biases = sampling.logit_bias or {}
    pairs = (lib.llama_logit_bias * max(1, len(biases)))(*biases.items())
    links = [
        lib.llama_sampler_init_logit_bias(len(row), len(biases), pairs),
        lib.llama_sampler_init_penalties(len(row), 64, sampling.repetition_penalty, 0.0, 0.0),
    ]
    if sampling.top_k:
        links.append(lib.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        links.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p:
        links.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
    for link in [*links, lib.llama_sampler_init_temp(sampling.temperature)]:
        lib.llama_sampler_chain_add(chain, link)
    for token in said:
        lib.llama_sampler_accept(chain, token)
    data = (lib.llama_token_data * len(row))(*((i, float(x), 0.0) for i, x in enumerate(row)))
    array = lib.llama_token_data_array()
    array.data, array.size, array.selected, array.sorted = data, len(row), -1, False
    lib.llama_sampler_apply(chain, ctypes.byref(array))
    kept = {array.data[i].id: array.data[i].logit for i in range(array.size)}
    lib.llama_sampler_free(chain)
    peak = max(kept.values())
    weights = {token: np.exp(np.float64(logit) - peak) for token, logit in kept.items()}
    total = sum(weights.values())
    return {token: weight / total for token, weight in weights.items()}


def _ours(sampling: Sampling, row: np.ndarray, said: list[int]) -> dict[int, float]:
    chooser = SamplingChain(sampling, len(row))
    chooser.remember(said)
    adjusted = chooser.adjusted(row)
    near = chooser.near(adjusted, float(adjusted.max()))
    tokens = np.arange(len(row)) if near is None else near
    weights = np.exp((adjusted[tokens].astype(np.float64) - adjusted.max()) / sampling.temperature)
    odds = weights / weights.sum()
    return {int(token): float(p) for token, p in zip(tokens, odds, strict=True)}


ASKED = [
    {},
    {"top_k": 5},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.02},
    {"top_p": 0.8, "min_p": 0.001},
    {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": 1.3},
    {"top_k": 200, "top_p": 0.5},
    {"logit_bias": {3: 9.0, 5: -100.0}, "repetition_penalty": 0.8, "top_p": 0.7},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_what_may_come_is_what_the_samplers_of_llama_cpp_leave(
    size: int, asked: dict[str, object]
) -> None:
    sampling = Sampling(temperature=0.7, **asked)  # type: ignore[arg-type]
    row = _logits(size, seed=size)
    said = [int(row.argmax()), 3, 6, int(row.argmin())]
    theirs, ours = _chain(sampling, row, said), _ours(sampling, row, said)
    assert sum(abs(theirs.get(t, 0) - ours.get(t, 0)) for t in {*theirs, *ours}) < 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("asked", [{}, {"top_p": 0.95}], ids=str)
def test_choices_come_as_often_as_is_due(size: int, asked: dict[str, object]) -> None:
    sampling = Sampling(temperature=1.3, seed=4, **asked)  # type: ignore[arg-type]
    row = _logits(size, seed=1)
    chooser = SamplingChain(sampling, size)
    odds = _ours(sampling, row, [])
    found = Counter(chooser.choose(row) for _ in range(800))
    assert found.keys() <= odds.keys()
    for token, p in sorted(odds.items(), key=lambda item: -item[1])[:5]:
        assert abs(found[token] - 800 * p) < 5 * np.sqrt(800 * p * (1 - p)) + 1


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=600), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_the_largest_are_those_of_a_full_sort(values: list[int], count: int) -> None:
    row = np.array(values, np.float32)
    expected = sorted(range(len(row)), key=lambda place: (-values[place], place))[:count]
    assert largest(row, count).tolist() == expected


def test_the_logits_stay_as_they_were() -> None:
    row = _logits(500, seed=2)
    before = row.copy()
    chooser = SamplingChain(
        Sampling(temperature=1, repetition_penalty=2, logit_bias={1: 5.0}, seed=1), 500
    )
    chooser.remember([2, 3])
    chooser.choose(row)
    np.testing.assert_array_equal(row, before)


def test_only_some_may_come() -> None:
    row = np.array([5.0, 1.0, 4.0, -np.inf], np.float32)
    some = np.array([1, 2, 3])
    assert SamplingChain(Sampling(), 4).choose(row, some) == 2
    drawn = SamplingChain(Sampling(temperature=5, seed=1), 4)
    assert {drawn.choose(row, some) for _ in range(200)} == {1, 2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_comes_where_all_is_forbidden(temperature: float) -> None:
    chooser = SamplingChain(Sampling(temperature=temperature), 3)
    row = np.array([1.0, -np.inf, -np.inf], np.float32)
    assert chooser.choose(row, np.array([1, 2])) is None
    assert chooser.choose(row, np.array([], np.int64)) is None


def test_only_the_newest_tokens_are_penalized() -> None:
    chooser = SamplingChain(Sampling(repetition_penalty=10), 100)
    row = np.zeros(100, np.float32)
    row[7], row[8] = 5.0, 4.0
    chooser.remember([7])
    assert chooser.choose(row) == 8
    chooser.remember([50] * 64)
    assert chooser.choose(row) == 7


def test_a_bias_on_a_token_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="token 9 and this model's last is 8"):
        SamplingChain(Sampling(logit_bias={9: 1.0}), 9)


@pytest.mark.parametrize(("presence", "frequency"), [(0.5, 0.0), (0.0, 0.7), (1.5, -0.25)])
def test_counts_are_punished_as_llama_cpp_does_and_only_in_the_answer(
    presence: float, frequency: float
) -> None:
    row, said = _logits(300, 5), [3, 3, 9, 3, 120]
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    chooser = SamplingChain(sampling, len(row))
    assert not chooser.takes_the_peak
    chooser.remember([7, 7, 7])  # of the prompt
    for token in said:
        chooser.note(token)
    lib = llama()
    link = lib.llama_sampler_init_penalties(len(row), 64, 1.0, frequency, presence)
    for token in said:
        lib.llama_sampler_accept(link, token)
    data = (lib.llama_token_data * len(row))(*((i, float(x), 0.0) for i, x in enumerate(row)))
    array = lib.llama_token_data_array()
    array.data, array.size, array.selected, array.sorted = data, len(row), -1, False
    lib.llama_sampler_apply(link, ctypes.byref(array))
    wanted = np.array([data[i].logit for i in range(len(row))], np.float32)
    lib.llama_sampler_free(link)
    assert np.allclose(chooser.adjusted(row), wanted, atol=1e-5)
    assert chooser.adjusted(row)[7] == row[7]
