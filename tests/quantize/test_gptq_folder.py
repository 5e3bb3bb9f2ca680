from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from backbone.attention import causal_attention
from backbone.errors import NearfarError
from backbone.network import Network
from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from quantize.loading import as_decoded, read_network
from quantize.model_files import FolderFiles

Make = Callable[..., Path]
FEW = CalibrationOptions(num_windows=8, window_len=32)
SMALL = GptqOptions(group_size=32)


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
    found = logits(read_network(FolderFiles(done.path), made=as_decoded), tokens)
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
    assert "--group-size -1" in refusal(source, out, options=GptqOptions(group_size=27))
    assert "exists already" in refusal(source, source)
    assert "fewer than one window" in refusal(source, out, options=SMALL, text="short")
    assert "config.json" in refusal(tmp_path, out)
    quantize_gptq(source, out, options=SMALL, calibration=FEW)
    assert "already quantized (gptq)" in refusal(out, tmp_path / "twice", options=SMALL)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "free some space" in refusal(source, tmp_path / "third", options=SMALL)


def test_a_group_size_that_does_not_divide_gives_way_to_the_largest_that_does(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    done = quantize_gptq(
        make_checkpoint("llama"), tmp_path / "out", options=GptqOptions(), calibration=FEW
    )
    assert done.group_size == 32  # of rows of 64 and 96
    config = json.loads((done.path / "config.json").read_text())
    assert config["quantization_config"]["group_size"] == 32
