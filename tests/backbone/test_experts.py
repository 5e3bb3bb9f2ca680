"""Every token goes through the experts it wants, by the weights it gives them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from backbone.experts import mix, route


def scaled(number: int, x: Tensor) -> Tensor:
    """Stand in for an expert: expert 0 gives 1 x, expert 1 gives 10 x, ..."""
    return x * 10.0**number


@pytest.mark.parametrize("normalized", [True, False])
def test_the_likeliest_experts_are_chosen_by_weight(normalized: bool) -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -9.0], [5.0, 5.0, -9.0, -9.0]])
    weights, chosen = route(logits, 2, normalized=normalized, dtype=torch.float32)
    assert chosen[0].tolist() == [1, 2] and sorted(chosen[1].tolist()) == [0, 1]
    whole = torch.softmax(logits, -1)[0, [1, 2]]
    expected = whole / whole.sum() if normalized else whole
    torch.testing.assert_close(weights[0], expected)


def test_each_expert_that_is_wanted_runs_once_over_all_its_tokens() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3)
    chosen = torch.tensor([[0, 2], [2, 0], [4, 2], [2, 4], [0, 4]])
    weights = torch.rand(5, 2)
    rows: dict[int, int] = {}

    def expert(number: int, rows_of: Tensor) -> Tensor:
        assert number not in rows, "an expert runs once"
        rows[number] = len(rows_of)
        return scaled(number, rows_of)

    out = mix(x, weights, chosen, lambda number: partial(expert, number))
    factors = (weights * 10.0 ** chosen.float()).sum(-1, keepdim=True)
    torch.testing.assert_close(out, x * factors)
    assert rows == {0: 3, 2: 4, 4: 3}


def test_without_data_one_expert_takes_every_token() -> None:
    x = torch.empty(7, 3, device="meta")
    chosen = torch.empty(7, 2, dtype=torch.int64, device="meta")
    taken: list[int] = []

    def expert(number: int) -> partial[Tensor]:
        return partial(lambda rows: taken.append(len(rows)) or rows)

    assert mix(x, torch.empty(7, 2, device="meta"), chosen, expert).shape == (7, 3)
    assert taken == [7]
