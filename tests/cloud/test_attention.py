"""Attention over blocks is attention over the whole sequence, however the blocks lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.sampling import Sampler, SamplingValues
from cloud.engine.attention import attention_backend, resolve
from cloud.engine.batch import build_batch
from cloud.engine.kv_cache import KVCache
from cloud.engine.scheduler import Slice
from cloud.engine.sequence import Sequence

BLOCK, CPU = 4, torch.device("cpu")
HEADS, KV_HEADS, DIM = 6, 2, 16


def config(window: int | None = None) -> NetworkConfig:
    return NetworkConfig(
        model_type="mistral",
        vocab_size=50,
        hidden_size=HEADS * DIM,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=DIM,
        max_position_embeddings=64,
        sliding_window=window,
    )


def sequence(num_tokens: int, blocks: list[int]) -> Sequence:
    made = Sequence([1] * num_tokens, max_tokens=9, sampler=Sampler(SamplingValues(), seed=0))
    made.blocks = blocks
    return made


def expected(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Return causal attention [tokens, heads, dim], written out."""
    group = HEADS // KV_HEADS
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / DIM**0.5
    at = torch.arange(len(q))
    visible = at[None] <= at[:, None]
    if window is not None:
        visible &= at[None] > at[:, None] - window
    probs = torch.softmax(scores.masked_fill(~visible, float("-inf")), -1)
    return torch.einsum("hqk,khd->qhd", probs, v)


@pytest.mark.parametrize("window", [None, 3, 6, 40])
@pytest.mark.parametrize("layout", [[0, 1, 2, 3, 4], [9, 3, 7, 1, 5], [2, 3, 4, 9, 10]])
@pytest.mark.parametrize("steps", [[17], [8, 9], [5, 1, 1, 10], [16, 1], [1] * 17, [3] * 5 + [2]])
def test_pieces_over_scattered_blocks_equal_the_whole(
    window: int | None, layout: list[int], steps: list[int]
) -> None:
    torch.manual_seed(1)
    q = torch.randn(17, HEADS, DIM)
    k, v = torch.randn(2, 17, KV_HEADS, DIM)
    cache = KVCache(config(window), 12, BLOCK, device=CPU, dtype=torch.float32)
    backend = attention_backend("torch", config(window), cache)
    tokens = sequence(17, layout)
    parts = []
    for count in steps:
        backend.prepare(build_batch([Slice(tokens, count)], BLOCK, CPU))
        new = slice(tokens.num_computed, tokens.num_computed + count)
        parts.append(backend.attend(1, q[new], k[new], v[new]))
        tokens.num_computed += count
    torch.testing.assert_close(torch.cat(parts), expected(q, k, v, window), atol=2e-6, rtol=1e-5)


def test_sequences_of_one_step_do_not_see_each_other() -> None:
    torch.manual_seed(2)
    cache = KVCache(config(), 12, BLOCK, device=CPU, dtype=torch.float32)
    backend = attention_backend("torch", config(), cache)
    rows = [sequence(6, [3, 8]), sequence(1, [5]), sequence(9, [0, 1, 2])]
    q = torch.randn(16, HEADS, DIM)
    k, v = torch.randn(2, 16, KV_HEADS, DIM)
    backend.prepare(build_batch([Slice(row, len(row.tokens)) for row in rows], BLOCK, CPU))
    out = backend.attend(0, q, k, v)
    for part in (slice(0, 6), slice(6, 7), slice(7, 16)):
        wanted = expected(q[part], k[part], v[part], None)
        torch.testing.assert_close(out[part], wanted, atol=2e-6, rtol=1e-5)


def test_layers_do_not_share_storage() -> None:
    cache = KVCache(config(), 2, BLOCK, device=CPU, dtype=torch.float32)
    ones = torch.ones(1, KV_HEADS, DIM)
    cache.store(0, ones, ones, torch.tensor([3]))
    assert cache.keys[0].sum() == cache.values[0].sum() == KV_HEADS * DIM
    assert cache.keys[1].abs().sum() == cache.values[1].abs().sum() == 0


def test_auto_is_the_reference_on_a_cpu() -> None:
    assert resolve("auto", CPU, torch.float32) == "torch"
