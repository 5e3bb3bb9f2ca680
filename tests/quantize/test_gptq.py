from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from backbone.errors import CheckpointError, NearfarError
from quantize.gptq import GptqOptions, output_error, quantize_matrix
from quantize.gptq_range import Range, choose_scale
from tests.quantize.made_weights import correlated

SMALL = GptqOptions(group_size=32)


def rounded_to_nearest(weight: Tensor, moment: Tensor, options: GptqOptions) -> Tensor:
    columns = []
    kind = Range(max_code=options.max_code, sym=options.sym, search=options.search_range)
    for start in range(0, weight.shape[1], options.group_size):
        part = weight[:, start : start + options.group_size]
        importance = moment.diagonal()[start : start + part.shape[1]]
        scale, zero = choose_scale(part.T, importance, kind)
        code = (torch.round(part / scale[:, None]) + zero[:, None]).clamp(0, options.max_code)
        columns.append(scale[:, None] * (code - zero[:, None]))
    return torch.cat(columns, 1)


@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, 192), (8, 64), (4, -1)])
def test_the_solver_beats_rounding_to_nearest(
    bits: int, group_size: int, sym: bool, desc_act: bool
) -> None:
    weight, moment = correlated(192)
    options = GptqOptions(bits=bits, group_size=group_size, sym=sym, desc_act=desc_act)
    found = quantize_matrix(weight, moment, options)
    nearest = replace(options, group_size=192 if group_size == -1 else group_size)
    plain = output_error(weight, rounded_to_nearest(weight, moment, nearest), moment)
    assert found.error < 0.9 * plain
    assert found.error == pytest.approx(output_error(weight, found.dequantized(), moment))
    assert int(found.codes.max()) <= options.max_code


def test_uncorrelated_inputs_round_to_nearest() -> None:
    weight, _ = correlated(64)
    options = GptqOptions(group_size=64)
    found = quantize_matrix(weight, torch.eye(64), options)
    expected = rounded_to_nearest(weight, torch.eye(64), options)
    assert torch.allclose(found.dequantized(), expected, atol=1e-6)


def test_groups_that_cross_a_block_of_columns_see_its_errors() -> None:
    weight, moment = correlated(192)
    # 96 does not divide the solver's blocks of 128 columns.
    found = quantize_matrix(weight, moment, GptqOptions(group_size=96))
    assert found.error < 0.012
    assert found.group_of.tolist() == [0] * 96 + [1] * 96


def test_ordering_by_activation_keeps_each_columns_group() -> None:
    weight, moment = correlated(64)
    found = quantize_matrix(weight, moment, GptqOptions(group_size=16, desc_act=True))
    order = torch.argsort(moment.diagonal(), descending=True)
    assert found.group_of[order].tolist() == [i // 16 for i in range(64)]


def test_silent_columns_cost_nothing_and_are_counted() -> None:
    weight, moment = correlated(64)
    moment[:, 5] = moment[5] = 0.0
    moment[:, 40] = moment[40] = 0.0
    found = quantize_matrix(weight, moment, GptqOptions(group_size=32))
    assert found.num_dead == 2
    assert found.error < 0.01
    assert torch.isfinite(found.dequantized()).all()


def test_all_silent_inputs_still_quantize() -> None:
    weight, _ = correlated(64)
    found = quantize_matrix(weight, torch.zeros(64, 64), GptqOptions(group_size=32))
    assert found.num_dead == 64
    assert torch.isfinite(found.dequantized()).all()


def test_a_singular_hessian_raises_the_damping_and_tells_it() -> None:
    weight, _ = correlated(64)
    column = torch.linspace(1, 2, 64) * 1e3
    options = GptqOptions(group_size=64, damping=1e-9)
    found = quantize_matrix(weight, torch.outer(column, column), options)
    assert found.damping > 1e-9
    assert torch.isfinite(found.dequantized()).all()


def test_overflowing_inputs_are_named() -> None:
    weight, moment = correlated(64)
    moment[3, 3] = float("inf")
    with pytest.raises(CheckpointError, match="overflow"):
        quantize_matrix(weight, moment, GptqOptions(group_size=64))


@pytest.mark.parametrize("wrong", [{"bits": 3}, {"group_size": 0}, {"damping": 2.0}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(NearfarError):
        GptqOptions(**wrong)


@pytest.mark.parametrize(
    ("asked", "widths", "chosen"),
    [
        (128, (576, 1536), 64),
        (128, (1024, 4096), 128),
        (-1, (577,), -1),
        (96, (960, 320), 32),
        (4, (8,), 4),
    ],
)
def test_the_group_size_is_the_largest_that_divides_every_row(
    asked: int, widths: tuple[int, ...], chosen: int
) -> None:
    assert GptqOptions(group_size=asked).fitting(widths).group_size == chosen


def test_a_model_that_no_group_divides_is_told_the_way_out() -> None:
    with pytest.raises(NearfarError, match="--group-size -1"):
        GptqOptions(group_size=128).fitting([577])
