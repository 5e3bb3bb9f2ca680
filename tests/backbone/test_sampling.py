"""Tokens are drawn from the stated distribution, and repeat with the seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from backbone.sampling import Sampler, SamplingValues, choose, confidence, likeliest

VOCAB = 24


def sampler(seed: int = 0, **values: Any) -> Sampler:
    return Sampler(SamplingValues(**values), seed=seed, vocab_size=VOCAB)


def some_logits(seed: int = 3) -> torch.Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


def frequencies(logits: torch.Tensor, drawn_by: Sampler, draws: int = 4000) -> torch.Tensor:
    tokens = torch.stack([choose(logits[None], [drawn_by])[0] for _ in range(draws)])
    return torch.bincount(tokens, minlength=VOCAB) / draws


def reference(logits: torch.Tensor, values: dict[str, Any]) -> torch.Tensor:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(values["temperature"])])
    if "top_k" in values:
        warpers.append(TopKLogitsWarper(values["top_k"]))
    if "top_p" in values:
        warpers.append(TopPLogitsWarper(values["top_p"]))
    if "min_p" in values:
        warpers.append(MinPLogitsWarper(values["min_p"]))
    return torch.softmax(warpers(torch.empty(1, 0, dtype=torch.long), logits[None])[0], -1)


class Forced:
    """A constraint that leaves no choice."""

    done = False

    def __init__(self, *tokens: int) -> None:
        self.forced = list(tokens)

    def allowed(self) -> Any:
        raise AssertionError("nobody asks what else there is")

    def accept(self, token: int) -> None:
        assert token == self.forced.pop(0)


def test_rows_of_forced_tokens_take_them_in_turn_and_draw_no_number() -> None:
    held, free = sampler(1, temperature=1.0), sampler(2, temperature=1.0)
    held.constrain(Forced(7, 3, 5))
    rows = some_logits().repeat(4, 1)
    tokens = choose(rows, [held, free, held, held]).tolist()
    assert [tokens[0], *tokens[2:]] == [7, 3, 5]
    assert tokens[1] == choose(rows[:1], [sampler(2, temperature=1.0)]).item()
    assert held.uniform() == sampler(1).uniform()
    held.took(7)
    assert held.forced == [3, 5]


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1.0},
        {"temperature": 0.5},
        {"temperature": 1.5, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.7},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    ],
)
def test_draws_follow_the_distribution_of_transformers(values: dict[str, Any]) -> None:
    expected = reference(some_logits(), values)
    seen = frequencies(some_logits(), sampler(**values))
    assert not seen[expected == 0].any()
    # Five standard deviations of a binomial share.
    bound = 5 * (expected * (1 - expected) / 4000).sqrt() + 1e-6
    assert ((seen - expected).abs() <= bound).all()


def test_greedy_is_the_exact_argmax() -> None:
    logits = torch.randn(50, VOCAB)
    assert torch.equal(choose(logits, [sampler() for _ in logits]), logits.argmax(-1))


def test_the_repetition_penalty_is_that_of_transformers() -> None:
    logits, noted = some_logits(), [1, 6, 6, 9, 20]
    drawn_by = sampler(repetition_penalty=3.0)
    drawn_by.note(noted)
    process = RepetitionPenaltyLogitsProcessor(3.0)
    expected = process(torch.tensor([noted]), logits[None].clone()).argmax(-1)
    assert torch.equal(choose(logits[None], [drawn_by]), expected)
    assert expected != logits.argmax()


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 6},
        {"temperature": 1.2, "top_p": 0.8},
        {"temperature": 1.0, "top_k": 9, "min_p": 0.05, "repetition_penalty": 1.3},
    ],
)
def test_a_seed_gives_the_same_tokens_whatever_the_neighbours(values: dict[str, Any]) -> None:
    logits = torch.randn(30, VOCAB)
    alone, beside = sampler(11, **values), sampler(11, **values)
    first = [int(choose(row[None], [alone])) for row in logits]
    second = []
    for i, row in enumerate(logits):
        others = [sampler(i, temperature=2.0, top_k=12), sampler(i), sampler(i, temperature=1.0)]
        others.append(sampler(i, temperature=0.7, top_p=0.6))
        batch = torch.stack((logits[0], row, logits[1], logits[2], logits[3]))
        second.append(int(choose(batch, [others[0], beside, *others[1:]])[1]))
    assert first == second


def test_seeds_differ() -> None:
    logits = torch.zeros(200, VOCAB)
    a, b = sampler(1, temperature=1.0), sampler(2, temperature=1.0)
    first = [int(choose(row[None], [a])) for row in logits]
    assert first != [int(choose(row[None], [b])) for row in logits]


def test_choosing_leaves_the_logits_as_they_were() -> None:
    logits = torch.randn(2, VOCAB)
    before = logits.clone()
    penalised = sampler(repetition_penalty=2.0, temperature=1.0)
    penalised.note(range(VOCAB))
    choose(logits, [penalised, sampler()])
    assert torch.equal(logits, before)


def test_a_row_without_numbers_does_not_stop_its_neighbours() -> None:
    logits = torch.stack((torch.full((VOCAB,), float("nan")), some_logits()))
    for values in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.5}):
        tokens = choose(logits, [sampler(**values), sampler(**values)])
        assert int(tokens.min()) >= 0 and int(tokens.max()) < VOCAB


def test_a_top_k_beyond_the_vocabulary_is_no_limit() -> None:
    values = {"temperature": 1.0}
    wide = frequencies(some_logits(), sampler(temperature=1.0, top_k=10 * VOCAB), draws=2000)
    assert ((wide - reference(some_logits(), values)).abs() < 0.06).all()


@pytest.mark.parametrize("seed", [-1, 2**64 + 5, 0])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert 0 <= sampler(seed, temperature=1.0).uniform() < 1


def test_confidence_is_that_of_the_unmodified_distribution() -> None:
    logits = some_logits()
    logprob, entropy, margin = confidence(logits[None], torch.tensor([5]))[0].tolist()
    distribution = torch.distributions.Categorical(logits=logits)
    best = logits.sort(descending=True).values
    assert logprob == pytest.approx(float(distribution.log_prob(torch.tensor(5))), abs=1e-5)
    assert entropy == pytest.approx(float(distribution.entropy()), abs=1e-5)
    assert margin == pytest.approx(float(best[0] - best[1]), abs=1e-5)


def test_impossible_tokens_leave_confidence_finite() -> None:
    logits = torch.full((1, VOCAB), float("-inf"))
    logits[0, :2] = 0.0
    values = confidence(logits, torch.tensor([0]))[0]
    assert values.tolist() == pytest.approx([-0.6931472, 0.6931472, 0.0], abs=1e-6)


def test_each_row_tells_as_many_of_its_likeliest_tokens_as_were_asked_for() -> None:
    logits = torch.stack([some_logits(seed) for seed in (1, 2, 3)])
    none, two, all_ = likeliest(logits, [0, 2, VOCAB + 5])
    expected = torch.log_softmax(logits, -1)
    assert none == ()
    assert [token for token, _ in two] == expected[1].topk(2).indices.tolist()
    assert [nats for _, nats in two] == pytest.approx(expected[1].topk(2).values.tolist())
    assert len(all_) == VOCAB
    assert likeliest(logits, [0, 0, 0]) == [(), (), ()]


def test_counts_of_the_answer_are_punished_once_and_for_each_time() -> None:
    values = SamplingValues(presence_penalty=0.5, frequency_penalty=0.25)
    sampler = Sampler(values, vocab_size=4)
    assert not sampler.is_plain and not sampler.takes_drafts
    sampler.note([2])  # the prompt's do not count
    row = torch.tensor([[1.0, 0.9, 0.8, -5.0]])
    chosen = []
    for _ in range(5):
        token = int(choose(row, [sampler])[0])
        sampler.took(token)
        chosen.append(token)
    # By hand: 0 falls to 0.25, 1 to 0.15, 2 to 0.05, then 0 to 0.0 and 1 to -0.1.
    assert chosen == [0, 1, 2, 0, 1]
