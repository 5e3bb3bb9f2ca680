from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbone.errors import CheckpointError
from quantize.gptq import GptqOptions, QuantizedMatrix, quantize_matrix
from quantize.gptq_format import pack, quantization_config, unpack
from tests.quantize.made_weights import correlated

SMALL = GptqOptions(group_size=32)


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
