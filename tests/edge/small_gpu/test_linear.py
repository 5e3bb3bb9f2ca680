from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbone.attention import causal_attention
from backbone.errors import CheckpointError
from edge.small_gpu import fast_linear
from edge.small_gpu.fast_linear import FastInt4Linear, FastInt8Linear, quickest
from edge.small_gpu.linear import GptqLinear, Int8Linear, TableLinear
from edge.small_gpu.loading import coded_linear, load, quantization_name
from offload.pair import CLOUD_MODEL
from quantize.gptq import GptqOptions, QuantizedMatrix, quantize_matrix

CPU = torch.device("cpu")


def matrix_of(
    bits: int = 4, group: int = 32, *, rows: int = 48, order: bool = False
) -> tuple[QuantizedMatrix, int]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(rows, 128, generator=generator)
    inputs = torch.randn(400, 128, generator=generator) * torch.linspace(0.1, 3, 128)
    options = GptqOptions(bits=bits, group_size=group, desc_act=order, sym=not order)
    return quantize_matrix(weight, inputs.T @ inputs / 400, options), bits


def sample(rows: int = 5) -> Tensor:
    return torch.randn(rows, 128, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("order", [False, True])
def test_the_plain_layer_multiplies_by_the_dequantized_matrix(bits: int, order: bool) -> None:
    matrix, _ = matrix_of(bits, order=order)
    layer = GptqLinear(matrix, bits=bits, bias=torch.ones(48))
    expected = sample() @ matrix.dequantized().T + 1
    torch.testing.assert_close(layer(sample()), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("order", [False, True])
def test_the_fast_layer_is_taken_and_agrees(group: int, order: bool) -> None:
    matrix, bits = matrix_of(group=group, order=order)
    plain = GptqLinear(matrix, bits=bits, bias=torch.ones(48))
    fast = quickest(plain)
    assert isinstance(fast, FastInt4Linear)
    for shape in ((1,), (3,), (2, 3)):
        x = sample(6)[: torch.Size(shape).numel()].reshape(*shape, 128)
        expected = plain(x)
        assert float((fast(x) - expected).norm() / expected.norm()) < 0.01
        assert fast(x).dtype == x.dtype


def test_shapes_that_the_kernel_has_not_stay_plain() -> None:
    for changes in ({"rows": 50}, {"group": 16}, {"bits": 8}):
        matrix, bits = matrix_of(**{"bits": 4} | changes)
        plain = GptqLinear(matrix, bits=bits)
        assert quickest(plain) is plain


def test_a_kernel_that_computes_something_else_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix, bits = matrix_of()
    plain = GptqLinear(matrix, bits=bits)
    right = FastInt4Linear.forward
    monkeypatch.setattr(FastInt4Linear, "forward", lambda self, x: right(self, x) * 1.1)
    assert quickest(plain) is plain


def test_a_torch_without_the_kernel_stays_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(plain: object) -> None:
        raise AttributeError("'_OpNamespace' 'aten' object has no attribute '_weight_int4pack'")

    matrix, bits = matrix_of()
    plain = GptqLinear(matrix, bits=bits)
    monkeypatch.setattr(fast_linear, "FastInt4Linear", gone)
    assert quickest(plain) is plain


def test_int8_rows_agree_and_are_aligned_for_the_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    # Read from a file, weights lie anywhere; the kernel ends the process on some addresses.
    stored = torch.randint(-127, 128, (48 * 128 + 8,), dtype=torch.int8, generator=generator)
    plain = Int8Linear(stored[8:].view(48, 128), torch.rand(48, generator=generator) + 0.5)
    fast = quickest(plain)
    assert isinstance(fast, FastInt8Linear)
    assert fast.integers.data_ptr() % 64 == 0
    expected = plain(sample(16))
    assert float((fast(sample(16)) - expected).norm() / expected.norm()) < 0.01


def test_a_table_is_looked_up_block_by_block_high_half_first() -> None:
    table = torch.arange(16).float()
    packed = torch.tensor([[0x12], [0x34]], dtype=torch.uint8)
    layer = TableLinear(packed, table, torch.tensor([1.0, 10.0]), shape=(1, 4))
    assert layer.weight_float().tolist() == [[1.0, 2.0, 30.0, 40.0]]


def test_a_bitsandbytes_weight_without_its_parts_is_told() -> None:
    parts = {"weight": torch.zeros(8, 1, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=r"layers.0.x cannot be read"):
        coded_linear("layers.0.x", parts, {"quant_method": "bitsandbytes"})


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_bitsandbytes_folders_mean_what_transformers_reads(kind: str, tmp_path: Path) -> None:
    from quantize.bnb import load_bnb, quantize_bnb

    folder = quantize_bnb(CLOUD_MODEL, tmp_path / kind, kind=kind).path
    network = load(folder, device=CPU, dtype=torch.float32, fast=False)
    tokens = torch.arange(4, 60).unsqueeze(0)
    with torch.no_grad():
        hidden = network(tokens, torch.arange(56).unsqueeze(0), causal_attention(network.config))
        ours, theirs = network.logits(hidden), load_bnb(folder)(tokens).logits.float()
    # Their int8 also rounds the inputs.
    assert float((ours - theirs).norm() / theirs.norm()) < (0.03 if kind == "int8" else 1e-3)
    assert quantization_name(folder) == kind
