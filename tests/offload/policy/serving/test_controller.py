"""A budget holds over every stretch of requests, whatever they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.errors import SettingsError
from offload.policy.serving.controller import RATE, BudgetController


def _spent(controller: BudgetController, needs: list[float]) -> list[bool]:
    spent = []
    for need in needs:
        far = need > controller.max_need()
        controller.note(need, went_far=far)
        spent.append(far)
    return spent


def _worst(spent: list[bool], budget: float, length: int) -> float:
    sums = np.convolve(np.array(spent, dtype=float), np.ones(length), "valid")
    return float(np.abs(sums / length - budget).max())


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_any_500_requests_keep_to_the_budget(seed: int, budget: float) -> None:
    generator = np.random.default_rng(seed)
    blocks = [
        generator.normal(generator.uniform(-3, 3), generator.choice([0.0, 0.3, 2.0]), 300)
        for _ in range(5)
    ]
    spent = _spent(BudgetController(budget), [float(each) for each in np.concatenate(blocks)])
    assert _worst(spent, budget, 500) <= (1 + RATE) / (RATE * 500) + 1e-9 < 0.02


def test_the_neediest_are_sent() -> None:
    needs = [float(each) for each in np.random.default_rng(0).random(4000)]
    spent = _spent(BudgetController(0.2), needs)
    sent = np.array(needs)[spent]
    assert sent.mean() > 0.8


def test_nothing_and_everything_are_budgets_too() -> None:
    needs = [0.1, 0.9, 0.5] * 50
    assert not any(_spent(BudgetController(0.0), needs))
    assert all(_spent(BudgetController(1.0), needs))


def test_calibrations_needs_are_a_start_without_being_spent_on() -> None:
    controller = BudgetController(0.25)
    controller.seed([0.0, 1.0, 2.0, 3.0])
    assert controller.max_need() == 3.0
    controller.note(math.inf, went_far=False)  # a need that is no number is not remembered
    assert controller.max_need() <= 3.0


def test_a_budget_beyond_everything_is_refused() -> None:
    with pytest.raises(SettingsError):
        BudgetController(1.5)
