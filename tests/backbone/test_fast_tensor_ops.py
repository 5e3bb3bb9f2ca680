"""Two rounds find what torch finds in one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backbone.fast_tensor_ops import place_of_largest, two_largest

WIDTHS = [2, 900, 4096, 4100, 8192]


def numbers(width: int) -> Tensor:
    return torch.randn(5, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_largest_is_torchs(width: int) -> None:
    x = numbers(width)
    assert torch.equal(place_of_largest(x), x.argmax(-1))
    assert torch.equal(two_largest(x), x.topk(2).values)


@pytest.mark.parametrize("width", WIDTHS[1:])
@pytest.mark.parametrize("places", [(3, 4), (3, 700), (899, 63)])
def test_of_equals_the_first_counts_and_both_are_told(width: int, places: tuple[int, int]) -> None:
    x = numbers(width)
    x[:, list(places)] = 9.0
    assert place_of_largest(x).tolist() == [min(places)] * len(x)
    assert torch.equal(two_largest(x), torch.full((len(x), 2), 9.0))


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_ruled_out_is_never_found(width: int) -> None:
    x = torch.full((3, width), float("-inf"))
    x[:, 1] = -5.0
    assert place_of_largest(x).tolist() == [1] * 3
    assert two_largest(x).tolist() == [[-5.0, float("-inf")]] * 3


@pytest.mark.parametrize("width", WIDTHS)
def test_no_number_shows(width: int) -> None:
    x = numbers(width)
    x[2, -1] = float("nan")
    assert two_largest(x)[2].isnan().any()
    assert int(place_of_largest(x)[2]) == width - 1
    assert not two_largest(x)[:2].isnan().any()
