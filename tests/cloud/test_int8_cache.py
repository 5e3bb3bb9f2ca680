"""Keys and values in eight bits: a third of the memory, nearly the same attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbone.config import NetworkConfig
from cloud.engine.engine import CloudEngine
from cloud.engine.kv_cache import KVCache, block_bytes
from cloud.engine.options import EngineOptions
from offload.messages import Message, Request
from offload.pair import CLOUD_MODEL
from tests.cloud.golden import answer, ask, text_of, tokens_of
from tests.tiny_checkpoints import write_checkpoint


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


def test_a_block_takes_a_third_of_the_bytes(folder: Path) -> None:
    config = NetworkConfig.load(folder)
    narrow, wide = (block_bytes(config, 16, dtype) for dtype in (torch.int8, torch.float32))
    assert narrow / wide == (32 + 4) / (32 * 4)
    cache = KVCache(config, 9, 16, device=torch.device("cpu"), dtype=torch.int8)
    assert cache.scales is not None
    scales = [scale for pair in cache.scales for scale in pair]
    held = sum(t.numel() * t.element_size() for t in (*cache.keys, *cache.values, *scales))
    assert held == 10 * narrow


@pytest.mark.parametrize("question", ["What is 17 + 25?", "How many seconds are in 3 hours?"])
async def test_the_embedded_model_answers_the_same(question: str) -> None:
    told = []
    for kind in ("auto", "int8"):
        options = EngineOptions(device="cpu", kv_cache_dtype=kind)  # type: ignore[arg-type]
        engine = CloudEngine(CLOUD_MODEL, options=options)
        request = Request(messages=(Message(role="user", content=question),))
        told.append(text_of((await answer(engine, request))[0]))
        await engine.aclose()
        engine._loop._batching.check_integrity()
    assert told[0] == told[1]


async def test_scattered_blocks_and_windows_read_the_same_as_neighbours(
    tmp_path: Path,
) -> None:
    folder = write_checkpoint(tmp_path, "qwen2-some-windows")
    told = []
    for block_size in (3, 128):
        options = EngineOptions(device="cpu", kv_cache_dtype="int8", block_size=block_size)
        engine = CloudEngine(folder, options=options)
        told.append(tokens_of((await answer(engine, ask(max_tokens=40)))[0]))
        await engine.aclose()
    assert told[0] == told[1]
