from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from backbone.attention import causal_attention
from backbone.errors import CheckpointError, NearfarError
from backbone.network import Network
from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions, QuantizedMatrix, output_error, quantize_matrix
from quantize.gptq_folder import quantize_gptq
from quantize.gptq_format import pack, quantization_config, unpack
from quantize.gptq_range import Range, choose_scale
from quantize.gptq_reader import load_gptq_network

Make = Callable[..., Path]
FEW = CalibrationOptions(num_windows=8, window_len=32)
SMALL = GptqOptions(group_size=32)


def correlated(num_inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight matrix and the second moment of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(num_inputs, num_inputs, generator=generator)
    inputs = torch.randn(600, num_inputs, generator=generator) @ (mix * 0.1 + torch.eye(num_inputs))
    weight = torch.randn(48, num_inputs, generator=generator)
    return weight, inputs.T @ inputs / 600


def rounded_to_nearest(weight: Tensor, moment: Tensor, options: GptqOptions) -> Tensor:
    columns = []
    kind = Range(max_code=options.max_code, sym=options.sym, search=options.search_range)
    for start in range(0, weight.shape[1], options.group_size):
        part = weight[:, start : start + options.group_size]
        scale, zero = choose_scale(part, moment.diagonal()[start : start + part.shape[1]], kind)
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


@settings(max_examples=25)
@given(
    st.integers(0, 10_000),
    st.sampled_from([4, 8]),
    st.booleans(),
    st.sampled_from(["gptq", "gptq_v2"]),
)
def test_packing_keeps_every_integer(seed: int, bits: int, sym: bool, label: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    top = (1 << bits) - 1
    shape = (2, 16)
    zeros = torch.randint(1, top + 1, shape, generator=generator, dtype=torch.int32)
    matrix = QuantizedMatrix(
        codes=torch.randint(0, top + 1, (16, 32), generator=generator, dtype=torch.uint8),
        scales=torch.rand(shape, generator=generator).half().float(),
        zeros=torch.full(shape, 1 << (bits - 1), dtype=torch.int32) if sym else zeros,
        group_of=torch.arange(32, dtype=torch.int32) // 16,
        error=0.0,
        damping=0.0,
        num_dead=0,
    )
    back = unpack(pack(matrix, bits, label), {"bits": bits, "sym": sym, "checkpoint_format": label})
    assert torch.equal(back.codes, matrix.codes)
    assert torch.equal(back.zeros, matrix.zeros)
    assert torch.equal(back.dequantized(), matrix.dequantized())


def test_packed_words_are_autogptqs() -> None:
    """Against the formula of AutoGPTQ's own reference kernel, written out number by number."""
    weight, moment = correlated(64)
    matrix = quantize_matrix(weight, moment, GptqOptions(group_size=32))
    parts = {name: tensor.numpy() for name, tensor in pack(matrix, 4).items()}
    assert parts["qweight"].shape == (8, 48) and parts["qzeros"].shape == (2, 6)
    assert (parts["qzeros"] == 0x77777777).all()
    found = np.zeros((64, 48), dtype=np.float32)
    for i in range(64):
        group = parts["g_idx"][i]
        for o in range(48):
            code = (int(parts["qweight"][i // 8, o]) >> (4 * (i % 8))) & 15
            zero = ((int(parts["qzeros"][group, o // 8]) >> (4 * (o % 8))) & 15) + 1
            found[i, o] = float(parts["scales"][group, o]) * (code - zero)
    np.testing.assert_array_equal(found.T, matrix.dequantized().numpy())


@pytest.mark.parametrize("label", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("stored", [7, 8])
def test_the_version_of_symmetric_zeros_is_told_by_value(label: str, stored: int) -> None:
    weight, moment = correlated(64)
    matrix = quantize_matrix(weight, moment, GptqOptions(group_size=32))
    parts = pack(matrix, 4)
    word = int.from_bytes(bytes([stored * 17]) * 4, "little")
    parts["qzeros"].fill_(word - (1 << 32) if word >= 1 << 31 else word)
    back = unpack(parts, {"bits": 4, "sym": True, "checkpoint_format": label})
    assert torch.equal(back.dequantized(), matrix.dequantized())


def test_the_version_of_varying_zeros_is_believed() -> None:
    weight, moment = correlated(64)
    matrix = quantize_matrix(weight, moment, GptqOptions(group_size=32, sym=False))
    parts = pack(matrix, 4)
    label = {"bits": 4, "sym": False}
    first = unpack(parts, {**label, "checkpoint_format": "gptq"})
    second = unpack(parts, {**label, "checkpoint_format": "gptq_v2"})
    assert torch.equal(first.zeros, matrix.zeros)
    assert torch.equal(second.zeros, matrix.zeros - 1)


def test_a_matrix_that_lacks_a_part_is_named() -> None:
    weight, moment = correlated(64)
    parts = pack(quantize_matrix(weight, moment, GptqOptions(group_size=32)), 4)
    del parts["scales"]
    with pytest.raises(CheckpointError, match="scales"):
        unpack(parts, quantization_config(SMALL))


def logits(network: Network, tokens: Tensor) -> Tensor:
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    with torch.no_grad():
        return network.logits(network(tokens, positions, causal_attention(network.config)))


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("bits", "bound"), [(4, 0.5), (8, 0.06)])
def test_a_quantized_folder_says_nearly_the_same(
    model_type: str, bits: int, bound: float, make_checkpoint: Make, tmp_path: Path
) -> None:
    from backbone.checkpoint import load_network

    source = make_checkpoint(model_type)
    options = GptqOptions(bits=bits, group_size=32)
    done = quantize_gptq(source, tmp_path / "out", options=options, calibration=FEW)
    tokens = torch.arange(3, 60).unsqueeze(0)
    expected = logits(load_network(source), tokens)
    found = logits(load_gptq_network(done.path), tokens)
    assert float((found - expected).norm() / expected.norm()) < bound
    assert len(done.matrices) == 14
    assert all(matrix.error < 0.1 for matrix in done.matrices)
    config = json.loads((done.path / "config.json").read_text())
    assert config["quantization_config"]["bits"] == bits
    assert (done.path / "tokenizer.json").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({source.name, "out"})


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_and_writes_the_same(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    source = make_checkpoint("llama", num_hidden_layers=3)
    whole = quantize_gptq(source, tmp_path / "whole", options=SMALL, calibration=FEW)

    def stop(layer: int, count: int) -> None:
        if layer == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        quantize_gptq(source, tmp_path / "b", options=SMALL, calibration=FEW, progress=stop)
    assert not (tmp_path / "b").exists()
    seen: list[int] = []
    again = quantize_gptq(
        source,
        tmp_path / "b",
        options=SMALL,
        calibration=FEW,
        progress=lambda layer, count: seen.append(layer),
    )
    assert seen == [3]
    assert again.matrices == whole.matrices
    for file in whole.path.glob("*.safetensors"):
        expected, found = load_file(file), load_file(again.path / file.name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert {p.name for p in whole.path.iterdir()} == {p.name for p in again.path.iterdir()}


def test_looking_again_after_each_matrix_is_no_worse(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    once = replace(SMALL, true_sequential=False)
    a = quantize_gptq(source, tmp_path / "a", options=SMALL, calibration=FEW)
    b = quantize_gptq(source, tmp_path / "b", options=once, calibration=FEW)
    # The first matrix of a model sees the same either way.
    assert a.matrices[0] == b.matrices[0]
    assert a.matrices != b.matrices


def refusal(source: Path, target: Path, **options: Any) -> str:
    with pytest.raises(NearfarError) as caught:
        quantize_gptq(source, target, calibration=FEW, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_bad_input_is_named_in_one_line(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint("llama")
    out = tmp_path / "out"
    assert "does not divide" in refusal(source, out, options=GptqOptions(group_size=128))
    assert "exists already" in refusal(source, source)
    assert "fewer than one window" in refusal(source, out, options=SMALL, text="short")
    assert "config.json" in refusal(tmp_path, out)
    quantize_gptq(source, out, options=SMALL, calibration=FEW)
    assert "already quantized (gptq)" in refusal(out, tmp_path / "twice", options=SMALL)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "free some space" in refusal(source, tmp_path / "third", options=SMALL)


def test_a_folder_that_is_not_gptq_is_named(make_checkpoint: Make) -> None:
    with pytest.raises(CheckpointError, match="no GPTQ"):
        load_gptq_network(make_checkpoint("llama"))
