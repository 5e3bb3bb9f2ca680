"""Attention over blocks is attention over the whole sequence, however the blocks lie."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.errors import MissingExtra
from backbone.sampling import Sampler, SamplingValues
from cloud.engine.attention import attention_backend, resolve
from cloud.engine.attention.sdpa import SdpaAttention
from cloud.engine.attention.split import SplitAttention
from cloud.engine.batch import build_batch
from cloud.engine.kv_cache import KVCache
from cloud.engine.scheduler import Slice
from cloud.engine.sequence import Sequence
from offload.errors import SettingsError

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


def test_auto_is_the_reference() -> None:
    assert resolve("auto", CPU, torch.float32) == "torch"


def test_a_backend_that_the_device_cannot_run_is_refused() -> None:
    with pytest.raises(SettingsError, match="needs a GPU and bfloat16"):
        resolve("triton+varlen", CPU, torch.bfloat16)
    with pytest.raises(SettingsError, match="needs a GPU and bfloat16"):
        resolve("triton+varlen", torch.device("cuda"), torch.float32)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "cloud.engine.attention.triton_decode", raising=False)
    cache = KVCache(config(), 2, BLOCK, device=CPU, dtype=torch.float32)
    with pytest.raises(MissingExtra, match=r"triton is not installed; pip install"):
        attention_backend("triton", config(), cache)


def flash_in_plain_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts_q: Tensor,
    starts_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> Tensor:
    """Keep the contract of varlen_attn: bottom-right causal, window counted to the left."""
    assert starts_q.dtype == starts_k.dtype == torch.int32 and window_size[1] == 0
    q_at, k_at = starts_q.tolist(), starts_k.tolist()
    assert max_q == max(b - a for a, b in pairwise(q_at))
    assert max_k == max(b - a for a, b in pairwise(k_at))
    window = None if window_size[0] < 0 else window_size[0] + 1
    parts = []
    for (a, b), (c, d) in zip(pairwise(q_at), pairwise(k_at), strict=True):
        padding = q.new_zeros((d - c) - (b - a), *q.shape[1:])
        parts.append(expected(torch.cat((padding, q[a:b])), k[c:d], v[c:d], window)[-(b - a) :])
    return torch.cat(parts)


@pytest.mark.parametrize("window", [None, 3, 6])
def test_split_and_varlen_hand_every_row_what_it_needs(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.engine.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", flash_in_plain_torch)
    torch.manual_seed(3)
    caches = [KVCache(config(window), 20, BLOCK, device=CPU, dtype=torch.float32) for _ in range(2)]
    split = SplitAttention(
        SdpaAttention(config(window), caches[0]), varlen.VarlenPrefill(config(window), caches[0])
    )
    reference = SdpaAttention(config(window), caches[1])
    rows = [sequence(5, [9, 3]), sequence(14, [0, 1, 7, 2]), sequence(11, [5, 4, 8])]
    # Prompts in pieces, then decode beside prompts, then decode alone.
    for counts in ([4, 6, 0], [1, 8, 5], [0, 0, 5], [0, 0, 1]):
        slices = [Slice(r, n) for r, n in zip(rows, counts, strict=True) if n]
        batch = build_batch(slices, BLOCK, CPU)
        q = torch.randn(len(batch.tokens), HEADS, DIM)
        k, v = torch.randn(2, len(batch.tokens), KV_HEADS, DIM)
        out = []
        for backend in (split, reference):
            backend.prepare(batch)
            out.append(backend.attend(0, q, k, v))
        torch.testing.assert_close(out[0], out[1], atol=2e-6, rtol=1e-5)
        for slice_ in slices:
            slice_.sequence.num_computed += slice_.num_tokens
