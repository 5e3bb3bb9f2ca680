"""A weight laid out for few rows multiplies as it did before."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from backbone.packed_linear import BlockedLinear, PackedLinear, TransposedLinear, pack_linear

SMALL, LARGE = (96, 64), (1024, 640)


def weight_of(shape: tuple[int, int], seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values / math.sqrt(shape[1])


@pytest.mark.parametrize("shape", [SMALL, LARGE])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 7, 16, 65])
def test_rows_are_multiplied_as_by_a_linear_layer(
    shape: tuple[int, int], biased: bool, num_rows: int
) -> None:
    weight = weight_of(shape)
    bias = weight[:, 0].clone() if biased else None
    rows, x = weight_of((num_rows, shape[1]), 1), weight_of((num_rows, shape[0]), 2)
    product: PackedLinear = pack_linear(weight, bias)
    expected = functional.linear(rows, weight, bias)
    before = x.clone()
    torch.testing.assert_close(product(rows), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(product.add_to(x, rows), before + expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x, before, atol=0, rtol=0)


def test_only_large_weights_are_packed() -> None:
    assert isinstance(pack_linear(weight_of(SMALL)), TransposedLinear)
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        pytest.skip("this torch was built without oneDNN")
    assert isinstance(pack_linear(weight_of(LARGE)), BlockedLinear)


def test_without_onednn_large_weights_are_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backbone.packed_linear._ONEDNN", object())
    assert isinstance(pack_linear(weight_of(LARGE)), TransposedLinear)
