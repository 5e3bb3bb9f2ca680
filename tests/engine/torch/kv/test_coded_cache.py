"""Keys and values in eight bits: a third of the memory, nearly the same attention."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from backbone.checkpoint import load_network
from backbone.config import NetworkConfig
from backbone.tokenizer import Tokenizer
from benchmarks.cloud_kv import logits_of
from cloud.cli import build
from cloud.engine.engine import CloudEngine
from engine.torch.kv.kv_cache import CODED, KVCache, block_bytes
from engine.torch.options import EngineOptions
from offload.messages import Message, Request
from offload.pair import CLOUD_MODEL
from tests.cloud.golden import answer, ask, text_of, tokens_of
from tests.tiny_checkpoints import SHARED_MODELS, write_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "qwen3-tied")


def test_what_is_stored_is_kept_within_half_a_step(folder: Path) -> None:
    config = NetworkConfig.load(folder)
    cache = KVCache(config, 4, 4, device=torch.device("cpu"), dtype=torch.int8)
    k, v = (torch.randn(5, 2, 32) * torch.tensor([0.01, 100.0])[:, None] for _ in "kv")
    slots = torch.tensor([3, 0, 7, 9, 2])
    cache.store(1, k, v, slots)
    assert cache.scales is not None
    for part, rows in enumerate((k, v)):
        scale = cache.scales[1][part][slots]
        kept = cache.flat[1][part][slots].float() * scale
        assert ((kept - rows).abs() <= scale / 2 + 1e-6).all()


def test_fp8_is_kept_within_its_mantissa_at_every_size(folder: Path) -> None:
    config = NetworkConfig.load(folder)
    cache = KVCache(config, 4, 4, device=torch.device("cpu"), dtype=torch.float8_e4m3fn)
    k, v = (torch.randn(5, 2, 32) * torch.tensor([1e-6, 1e6])[:, None] for _ in "kv")
    slots = torch.tensor([3, 0, 7, 9, 2])
    cache.store(1, k, v, slots)
    assert cache.scales is not None
    for part, rows in enumerate((k, v)):
        kept = cache.flat[1][part][slots].float() * cache.scales[1][part][slots]
        # Half a step of three bits; below 2^-6 of e4m3's own scale, steps are even.
        least = cache.scales[1][part][slots] * 2.0**-10
        assert ((kept - rows).abs() <= rows.abs() / 16 + least * 1.001).all()


def test_a_head_of_zeros_stays_zero(folder: Path) -> None:
    config = NetworkConfig.load(folder)
    for dtype in CODED:
        cache = KVCache(config, 1, 4, device=torch.device("cpu"), dtype=dtype)
        zeros = torch.zeros(1, 2, 32)
        cache.store(0, zeros, zeros, torch.tensor([2]))
        assert not cache.flat[0][0].float().any()


@pytest.mark.parametrize("dtype", list(CODED))
def test_a_block_takes_a_third_of_the_bytes(folder: Path, dtype: torch.dtype) -> None:
    config = NetworkConfig.load(folder)
    narrow, wide = (block_bytes(config, 16, kind) for kind in (dtype, torch.float32))
    assert narrow / wide == (32 + 4) / (32 * 4)
    cache = KVCache(config, 9, 16, device=torch.device("cpu"), dtype=dtype)
    assert cache.scales is not None
    scales = [scale for pair in cache.scales for scale in pair]
    held = sum(t.numel() * t.element_size() for t in (*cache.keys, *cache.values, *scales))
    assert held == 10 * narrow


@pytest.mark.parametrize("question", ["What is 17 + 25?", "How many seconds are in 3 hours?"])
async def test_the_embedded_model_answers_the_same(question: str) -> None:
    told = []
    for kind in ("auto", "int8", "fp8"):
        options = EngineOptions(device="cpu", kv_cache_dtype=kind)  # type: ignore[arg-type]
        engine = CloudEngine(CLOUD_MODEL, options=options)
        request = Request(messages=(Message(role="user", content=question),))
        told.append(text_of((await answer(engine, request))[0]))
        await engine.aclose()
        engine.batching.check_integrity()
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
async def test_scattered_blocks_and_windows_read_the_same_as_neighbours(
    kind: str, tmp_path: Path
) -> None:
    folder = write_checkpoint(tmp_path, "qwen2-some-windows")
    told = []
    for block_size in (3, 128):
        options = EngineOptions(device="cpu", kv_cache_dtype=kind, block_size=block_size)  # type: ignore[arg-type]
        engine = CloudEngine(folder, options=options)
        told.append(tokens_of((await answer(engine, ask(max_tokens=40)))[0]))
        await engine.aclose()
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_memory_command_counts_it(kind: str) -> None:
    def bytes_per_token(*more: str) -> int:
        told = CliRunner().invoke(build(), ["memory", "--device", "cpu", "--json", *more])
        assert told.exit_code == 0, told.output
        return int(json.loads(told.stdout)["kv_bytes_per_token"])

    dim = NetworkConfig.load(CLOUD_MODEL).head_dim
    assert bytes_per_token("--kv-cache-dtype", kind) / bytes_per_token() == (dim + 4) / (dim * 4)


@pytest.mark.parametrize("name", ["stories260K", "stories3M"])
@pytest.mark.parametrize("dtype", list(CODED))
def test_a_trained_model_predicts_nearly_the_same(name: str, dtype: torch.dtype) -> None:
    folder = SHARED_MODELS / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    network = load_network(folder)
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    ids = Tokenizer(folder).encode(text)
    plain, coded = (
        logits_of(network, ids, kind).log_softmax(-1) for kind in (torch.float32, dtype)
    )
    divergence = (plain.exp() * (plain - coded)).sum(-1)
    assert 0 < divergence.mean() < 0.05
