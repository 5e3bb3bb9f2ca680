from __future__ import annotations

import json
import math
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backbone.attention import causal_attention
from backbone.errors import CheckpointError
from backbone.network import Network
from backbone.tensor_shard import TensorShard
from offload.pair import CLOUD_MODEL
from quantize import packed_products
from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions, QuantizedMatrix, quantize_matrix
from quantize.gptq_folder import quantize_gptq
from quantize.gptq_format import pack
from quantize.loading import (
    as_coded,
    as_decoded,
    coded_linear,
    read_network,
    settings_of,
    share_of_layer,
)
from quantize.model_files import FolderFiles
from quantize.packed_products import FastInt4Linear, FastInt8Linear, quickest
from quantize.quantized_linear import CodedLinear, GptqLinear, Int8Linear, TableLinear
from tests.tiny_checkpoints import write_checkpoint


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
    monkeypatch.setattr(packed_products, "FastInt4Linear", gone)
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


def table_parts(state: object = None, **changes: Tensor) -> dict[str, Tensor]:
    described = json.dumps({"shape": [8, 8]} if state is None else state).encode()
    return {
        "weight": torch.zeros(32, dtype=torch.uint8),
        "weight.absmax": torch.ones(1),
        "weight.quant_map": torch.arange(16.0),
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(described), dtype=torch.uint8),
        **{name.replace("__", "."): tensor for name, tensor in changes.items()},
    }


NESTED = {"shape": [8, 8], "nested_blocksize": 1, "nested_offset": 0.0}


@pytest.mark.parametrize(
    "parts",
    [
        table_parts(weight__absmax=torch.ones(0)),
        table_parts(weight__quant_map=torch.ones(4)),
        table_parts([]),
        table_parts({"shape": 8}),
        table_parts({"shape": [8, math.inf]}),
        table_parts({"shape": [8, 8, 8]}),
        table_parts(
            NESTED,
            weight__absmax=torch.full((1,), 200, dtype=torch.uint8),
            weight__nested_absmax=torch.ones(1),
            weight__nested_quant_map=torch.ones(2),
        ),
        table_parts(
            {**NESTED, "nested_blocksize": 0},
            weight__absmax=torch.zeros(1, dtype=torch.uint8),
            weight__nested_absmax=torch.ones(1),
            weight__nested_quant_map=torch.ones(2),
        ),
    ],
)
def test_a_bitsandbytes_weight_that_makes_no_sense_is_one_line(parts: dict[str, Tensor]) -> None:
    whole = coded_linear("x", table_parts(), {"quant_method": "bitsandbytes"})
    assert whole.weight_float().shape == (8, 8)
    with pytest.raises(CheckpointError, match=r"x cannot be read .*quantize it again"):
        coded_linear("x", parts, {"quant_method": "bitsandbytes"})


@pytest.mark.parametrize(
    ("parts", "settings"),
    [
        ({"qweight": torch.tensor(1, dtype=torch.int32)}, {}),
        ({"g_idx": torch.full((128,), 99, dtype=torch.int32)}, {}),
        ({"g_idx": torch.full((128,), -1, dtype=torch.int32)}, {}),
        ({"g_idx": torch.zeros(0, dtype=torch.int32)}, {}),
        ({"scales": torch.ones(0, 48)}, {}),
        ({}, {"bits": math.inf}),
        ({}, {"bits": "many"}),
        ({}, {"dynamic": ["+:.*"]}),
        ({}, {"dynamic": {".*": 3}}),
    ],
)
def test_a_gptq_weight_that_makes_no_sense_is_one_line(
    parts: dict[str, Tensor], settings: dict[str, Any]
) -> None:
    matrix, bits = matrix_of()
    config = {"quant_method": "gptq", "bits": bits, "sym": True}
    good = pack(matrix, bits)
    assert coded_linear("x", good, config).shape == (48, 128)
    with pytest.raises(CheckpointError) as caught:
        coded_linear("x", {**good, **parts}, {**config, **settings})
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_bitsandbytes_folders_mean_what_transformers_reads(kind: str, tmp_path: Path) -> None:
    from quantize.bnb import load_bnb, quantize_bnb

    folder = quantize_bnb(CLOUD_MODEL, tmp_path / kind, kind=kind).path
    network = read_network(FolderFiles(folder), made=as_coded)
    tokens = torch.arange(4, 60).unsqueeze(0)
    with torch.no_grad():
        hidden = network(tokens, torch.arange(56).unsqueeze(0), causal_attention(network.config))
        ours, theirs = network.logits(hidden), load_bnb(folder)(tokens).logits.float()
    # Their int8 also rounds the inputs.
    assert float((ours - theirs).norm() / theirs.norm()) < (0.03 if kind == "int8" else 1e-3)
    assert FolderFiles(folder).quantization_name() == kind


FEW = CalibrationOptions(num_windows=2, window_len=32)


def logits_of(network: Network) -> Tensor:
    tokens = torch.arange(4, 60)
    attend = causal_attention(network.config)
    with torch.no_grad():
        return network.logits(network(tokens, torch.arange(56), attend))


@pytest.fixture(scope="module")
def gptq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gptq")
    source = write_checkpoint(folder / "source", "qwen3")
    options = GptqOptions(group_size=32, desc_act=True)
    return quantize_gptq(source, folder / "coded", options=options, calibration=FEW).path


def test_a_quantized_layer_gets_the_products_of_the_device_that_it_runs_on(
    gptq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing can be said of a number on the device that stands for another.
    monkeypatch.setattr(
        "backbone.checkpoint._checked", lambda name, tensor, device, dtype: tensor.to(device)
    )
    seen: set[str] = set()

    def made(layer: CodedLinear) -> nn.Module:
        seen.update(part.device.type for part in layer.buffers())
        return quickest(layer)

    network = read_network(FolderFiles(gptq), device="meta", made=made)
    assert seen == {"meta"}
    assert not any(isinstance(each, FastInt4Linear) for each in network.modules())


def test_the_int4_product_of_a_gpu_takes_what_is_packed_for_it() -> None:
    # On torch's meta device an operator checks what it is given, and computes nothing.
    codes = torch.zeros(48, 192, dtype=torch.uint8, device="meta")
    product, packed = packed_products._packed_int4(codes)
    assert packed.shape == (6, 3, 32, 2)
    assert product is torch.ops.aten._weight_int4pack_mm.default


def copied(folder: Path, target: Path, **quantization: Any) -> tuple[Path, dict[str, Tensor]]:
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] |= quantization
    (target / "config.json").write_text(json.dumps(config))
    tensors: dict[str, Tensor] = {}
    for path in target.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    (target / "model.safetensors.index.json").unlink(missing_ok=True)
    return target, tensors


def test_modules_with_settings_of_their_own_are_read_by_them(gptq: Path, tmp_path: Path) -> None:
    dynamic = {
        r"+:model\.layers\.1\.mlp\.down_proj": {"bits": 8, "group_size": 16},
        r"-:model\.layers\.0\.self_attn\.o_proj": {},
    }
    folder, tensors = copied(gptq, tmp_path / "dynamic", dynamic=dynamic)
    before = read_network(FolderFiles(gptq), made=as_decoded)
    wide, left = "model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj"
    weight = before.layers[1].mlp.down_proj.weight
    matrix = quantize_matrix(weight, torch.eye(96), GptqOptions(bits=8, group_size=16))
    tensors |= {f"{wide}.{part}": value for part, value in pack(matrix, 8).items()}
    tensors = {name: value for name, value in tensors.items() if not name.startswith(left)}
    tensors[f"{left}.weight"] = before.layers[0].self_attn.o_proj.weight.contiguous()
    save_file(tensors, folder / "model.safetensors")
    found = read_network(FolderFiles(folder), made=as_coded)
    assert found.layers[1].mlp.down_proj.bits == 8
    assert type(found.layers[0].self_attn.o_proj) is torch.nn.Linear
    expected = logits_of(before)
    assert float((logits_of(found) - expected).norm() / expected.norm()) < 0.02


def test_a_quantized_output_layer_is_read(gptq: Path, tmp_path: Path) -> None:
    folder, tensors = copied(gptq, tmp_path / "head", dynamic={"lm_head": {"bits": 8}})
    weight = tensors.pop("lm_head.weight").float()
    matrix = quantize_matrix(weight, torch.eye(64), GptqOptions(bits=8, group_size=16))
    tensors |= {f"lm_head.{part}": value for part, value in pack(matrix, 8).items()}
    save_file(tensors, folder / "model.safetensors")
    expected = logits_of(read_network(FolderFiles(gptq), made=as_coded))
    found = logits_of(read_network(FolderFiles(folder)))
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_the_first_expression_that_matches_counts_and_a_bad_one_is_named() -> None:
    config = {"bits": 4, "dynamic": {"+:model.layers.1.": {"bits": 8}, ".*": {"bits": 2}}}
    assert settings_of("layers.1.mlp.up_proj", config)["bits"] == 8
    assert settings_of("lm_head", config)["bits"] == 2
    assert settings_of("lm_head", {"bits": 4})["bits"] == 4
    with pytest.raises(CheckpointError, match="no regular expression"):
        settings_of("lm_head", {"bits": 4, "dynamic": {"(": {}}})


@pytest.mark.parametrize("kind", ["gptq", "gptq-in-order", "int8", "table"])
def test_shares_of_a_layer_make_the_whole(kind: str) -> None:
    bias = torch.arange(48).float()
    generator = torch.Generator().manual_seed(1)
    whole: CodedLinear
    if kind.startswith("gptq"):
        matrix, bits = matrix_of(order=kind == "gptq-in-order")
        whole = GptqLinear(matrix, bits=bits, bias=bias)
    elif kind == "int8":
        integers = torch.randint(-127, 128, (48, 128), dtype=torch.int8, generator=generator)
        whole = Int8Linear(integers, torch.rand(48, generator=generator), bias=bias)
    else:
        packed = torch.randint(0, 256, (48 * 64,), dtype=torch.uint8, generator=generator)
        scales = torch.rand(48 * 128 // 96, generator=generator)
        whole = TableLinear(packed, torch.randn(16), scales, shape=(48, 128), bias=bias)
    x, expected = sample(), whole(sample())
    rows = [share_of_layer("layers.0.mlp.up_proj", whole, TensorShard(r, 2))(x) for r in range(2)]
    torch.testing.assert_close(torch.cat(rows, -1), expected)
    sums = [
        share_of_layer("layers.0.mlp.down_proj", whole, TensorShard(r, 2))(
            x[:, 64 * r : 64 * (r + 1)]
        )
        for r in range(2)
    ]
    torch.testing.assert_close(sums[0] + sums[1], expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16, torch.float32])
def test_four_bits_are_read_from_whatever_type_they_are_stored_as(storage: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    packed = torch.randint(0, 256, (64 * 32, 1), dtype=torch.uint8, generator=generator)
    state = json.dumps({"shape": [64, 64]}).encode()
    parts = {
        "weight": packed.flatten().view(storage).unsqueeze(1),
        "weight.absmax": torch.rand(64, generator=generator),
        "weight.quant_map": torch.linspace(-1, 1, 16),
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
    }
    layer = coded_linear("layers.0.x", parts, {"quant_method": "bitsandbytes"})
    assert torch.equal(layer.packed, packed.flatten())
