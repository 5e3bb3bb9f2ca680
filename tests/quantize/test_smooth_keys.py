"""Key smoothing changes no score, lowers what few bits cost, and refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from backbone.errors import CheckpointError
from edge.llama.kv_losses import kv_report
from quantize.gguf import convert
from quantize.gguf_reader import inspect
from quantize.smooth_keys import FLOOR, smooth_keys
from tests.quantize.test_gguf import TOKENS, gguf_logits

Make = Callable[..., Path]


@pytest.fixture
def biased(make_checkpoint: Make) -> Path:
    """A Qwen2-shaped folder whose key biases are tens of times larger in a few channels."""
    folder = make_checkpoint("qwen2", hidden_size=256, intermediate_size=256)
    path = folder / "model.safetensors"
    weights = load_file(path)
    for index, name in enumerate(sorted(n for n in weights if n.endswith("k_proj.bias"))):
        bias = weights[name].copy()
        bias[index + 3 :: 17] = 400.0
        weights[name] = bias
    save_file(weights, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_k_m"])
def test_every_score_stays_as_it_was(kind: str, biased: Path, tmp_path: Path) -> None:
    source = convert(biased, tmp_path / "source.gguf", kind=kind).path
    before = source.read_bytes()
    done = smooth_keys(source, tmp_path / "smooth.gguf")
    assert done.num_smoothed > 0 and done.largest_before >= 400
    assert source.read_bytes() == before and inspect(done.path) == inspect(source)
    expected, found = gguf_logits(source, TOKENS), gguf_logits(done.path, TOKENS)
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


def test_large_channels_come_down_to_the_floor(biased: Path, tmp_path: Path) -> None:
    source = convert(biased, tmp_path / "source.gguf", kind="f32").path
    done = smooth_keys(source, tmp_path / "smooth.gguf")
    assert done.largest_after <= FLOOR * 2**0.5
    with pytest.raises(CheckpointError, match="smooth already"):
        smooth_keys(done.path, tmp_path / "again.gguf")


def test_keys_in_few_bits_lose_less(biased: Path, tmp_path: Path) -> None:
    source = convert(biased, tmp_path / "source.gguf", kind="q8_0").path
    done = smooth_keys(source, tmp_path / "smooth.gguf")
    losses = [
        kv_report(path, names=["q8_0/f16"], num_tokens=48, num_threads=1)[0].divergence
        for path in (source, done.path)
    ]
    assert losses[1] < losses[0] / 2


def test_models_without_key_biases_are_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    source = convert(make_checkpoint("llama"), tmp_path / "source.gguf", kind="f16").path
    with pytest.raises(CheckpointError, match="is a llama model"):
        smooth_keys(source, tmp_path / "smooth.gguf")
    assert sorted(path.name for path in tmp_path.glob("*.gguf")) == ["source.gguf"]


def test_a_file_cut_short_is_refused(biased: Path, tmp_path: Path) -> None:
    source = convert(biased, tmp_path / "source.gguf", kind="q8_0").path
    source.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="fetch the model again"):
        smooth_keys(source, tmp_path / "smooth.gguf")
