"""Attention over blocks is attention over the whole sequence, however the blocks lie."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.errors import MissingExtra
from backbone.sampling import Sampler, SamplingValues
from engine.torch.attention import BACKENDS, attention_backend, refusal, resolve
from engine.torch.attention.base import AttentionBackend, SplitAttention
from engine.torch.attention.sdpa import SdpaAttention
from engine.torch.kv.kv_cache import KVCache
from engine.torch.sequence import Sequence
from engine.torch.step import Slice, build_batch
from offload.errors import SettingsError

BLOCK, CPU = 4, torch.device("cpu")
HEADS, KV_HEADS, DIM = 6, 2, 16


def config(window: int | None = None, **changes: Any) -> NetworkConfig:
    return NetworkConfig(
        vocab_size=50,
        hidden_size=HEADS * DIM,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=DIM,
        max_position_embeddings=64,
        sliding_window=window,
        **{"model_type": "mistral"} | changes,
    )


def sequence(num_tokens: int, blocks: list[int]) -> Sequence:
    made = Sequence([1] * num_tokens, max_tokens=9, sampler=Sampler(SamplingValues(), seed=0))
    made.blocks = blocks
    return made


def expected(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None,
    num_sinks: int = 0,
    cap: float | None = None,
) -> Tensor:
    """Return causal attention [tokens, heads, dim], written out."""
    group = HEADS // KV_HEADS
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / DIM**0.5
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    at = torch.arange(len(q))
    visible = at[None] <= at[:, None]
    if window is not None:
        visible &= (at[None] > at[:, None] - window) | (at[None] < num_sinks)
    probs = torch.softmax(scores.masked_fill(~visible, float("-inf")), -1)
    return torch.einsum("hqk,khd->qhd", probs, v)


def in_pieces(
    backend: AttentionBackend,
    qkv: tuple[Tensor, Tensor, Tensor],
    layout: list[int],
    steps: list[int],
) -> Tensor:
    """Return the attention of one sequence that is read in steps of so many tokens."""
    tokens = sequence(sum(steps), layout)
    parts = []
    for count in steps:
        backend.prepare(build_batch([Slice(tokens, count)], BLOCK, CPU))
        new = slice(tokens.num_computed, tokens.num_computed + count)
        parts.append(backend.attend(1, *(x[new] for x in qkv)))
        tokens.num_computed += count
    return torch.cat(parts)


def random_qkv(num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(num_tokens, HEADS, DIM)
    k, v = torch.randn(2, num_tokens, KV_HEADS, DIM)
    return q, k, v


@pytest.mark.parametrize("window", [None, 3, 6, 40])
@pytest.mark.parametrize("layout", [[0, 1, 2, 3, 4], [9, 3, 7, 1, 5], [2, 3, 4, 9, 10]])
@pytest.mark.parametrize("steps", [[17], [8, 9], [5, 1, 1, 10], [16, 1], [1] * 17, [3] * 5 + [2]])
def test_pieces_over_scattered_blocks_equal_the_whole(
    window: int | None, layout: list[int], steps: list[int]
) -> None:
    torch.manual_seed(1)
    qkv = random_qkv(17)
    cache = KVCache(config(window), 12, BLOCK, device=CPU, dtype=torch.float32)
    backend = attention_backend("torch", config(window), cache)
    out = in_pieces(backend, qkv, layout, steps)
    torch.testing.assert_close(out, expected(*qkv, window), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["torch", "flex"])
@pytest.mark.parametrize("steps", [[17], [5, 1, 1, 10], [8, 9]])
@pytest.mark.parametrize(("window", "num_sinks"), [(None, 0), (3, 0), (3, 2), (5, 6), (6, 1)])
@pytest.mark.parametrize("cap", [None, 0.5])
def test_sinks_and_caps_hold_in_every_backend_that_has_them(
    name: str, steps: list[int], window: int | None, num_sinks: int, cap: float | None
) -> None:
    torch.manual_seed(4)
    qkv = random_qkv(17)
    shape = config(window, num_sinks=num_sinks, attn_logit_softcapping=cap)
    cache = KVCache(shape, 12, BLOCK, device=CPU, dtype=torch.float32)
    backend = attention_backend(name, shape, cache)
    out = in_pieces(backend, qkv, [9, 3, 7, 1, 5], steps)
    wanted = expected(*qkv, window, num_sinks, cap)
    torch.testing.assert_close(out, wanted, atol=2e-6, rtol=1e-5)
    if cap is not None:
        assert (wanted - expected(*qkv, window, num_sinks)).abs().max() > 0.01


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


def cache_of(
    shape: NetworkConfig, *, block_size: int = 256, dtype: torch.dtype = torch.bfloat16
) -> KVCache:
    return KVCache(shape, 1, block_size, device=CPU, dtype=dtype)


def on_a_gpu(cache: KVCache) -> KVCache:
    """Make a cache say that it lies on a GPU."""
    cache.keys = [SimpleNamespace(device=torch.device("cuda"), dtype=cache.keys[0].dtype)]  # type: ignore[list-item]
    return cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("changes", [{}, {"attn_logit_softcapping": 50.0}, {"num_sinks": 4}])
def test_auto_can_do_what_the_model_needs(dtype: torch.dtype, changes: dict[str, Any]) -> None:
    shape = config(3, **changes)
    chosen = resolve("auto", shape, cache_of(shape, dtype=dtype))
    assert chosen == "torch" and refusal(BACKENDS[chosen], shape, cache_of(shape)) is None


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("capability", [(8, 0), (8, 7), (9, 0)])
def test_auto_is_the_reference_on_every_gpu(
    stored: torch.dtype, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the manual says, until the others are measured there.
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    cache = on_a_gpu(cache_of(config(), dtype=stored))
    assert resolve("auto", config(), cache, torch.bfloat16) == "torch"


@pytest.mark.parametrize("name", ["triton+varlen", "flash_attn"])
def test_a_backend_that_the_device_cannot_run_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="needs a GPU and bfloat16"):
        resolve(name, config(), cache_of(config()))
    with pytest.raises(SettingsError, match="needs a GPU and bfloat16"):
        resolve(name, config(), on_a_gpu(cache_of(config(), dtype=torch.float32)))
    assert resolve(name, config(), on_a_gpu(cache_of(config()))) == name


def test_a_backend_without_soft_capping_is_refused_for_a_model_that_needs_it() -> None:
    shape = config(model_type="gemma2", attn_logit_softcapping=50.0)
    with pytest.raises(SettingsError, match="cannot cap attention scores as gemma2 asks"):
        resolve("triton+varlen", shape, on_a_gpu(cache_of(shape)))
    for name in ("torch", "triton", "flex"):
        assert resolve(name, shape, cache_of(shape)) == name


def test_a_backend_without_sinks_is_refused_where_there_are_some() -> None:
    shape = config(3, num_sinks=4)
    for name in ("triton+varlen", "flash_attn"):
        with pytest.raises(SettingsError, match="has no attention sinks"):
            resolve(name, shape, on_a_gpu(cache_of(shape)))


@pytest.mark.parametrize(("dtype", "kind"), [(torch.int8, "int8"), (torch.float8_e4m3fn, "fp8")])
def test_only_flash_attn_reads_no_eight_bits(dtype: torch.dtype, kind: str) -> None:
    cache = on_a_gpu(cache_of(config(), dtype=dtype))
    with pytest.raises(SettingsError, match=f"reads no {kind} cache"):
        resolve("flash_attn", config(), cache, torch.bfloat16)
    for name in ("torch", "triton", "triton+varlen", "flex"):
        assert resolve(name, config(), cache, torch.bfloat16) == name
    with pytest.raises(SettingsError, match="needs a GPU and bfloat16"):
        resolve("triton+varlen", config(), cache, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("window", [None, 3])
def test_flex_reads_every_kind_of_cache_as_the_reference_does(
    dtype: torch.dtype, window: int | None
) -> None:
    torch.manual_seed(3)
    shape = config(window)
    caches = [KVCache(shape, 20, BLOCK, device=CPU, dtype=dtype) for _ in range(2)]
    agree(attention_backend("flex", shape, caches[0]), SdpaAttention(shape, caches[1]))


def test_a_block_size_that_flash_attention_cannot_read_is_refused() -> None:
    with pytest.raises(SettingsError, match="blocks of 256 tokens or a multiple; set block_size"):
        resolve("flash_attn", config(), on_a_gpu(cache_of(config(), block_size=16)))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "engine.torch.attention.triton_decode", raising=False)
    cache = KVCache(config(), 2, BLOCK, device=CPU, dtype=torch.float32)
    with pytest.raises(MissingExtra, match=r"triton is not installed; pip install"):
        attention_backend("triton", config(), cache)


def flash_package(calls: list[str]) -> ModuleType:
    """Stand in for flash-attn: its two functions, with its own signatures, written out."""

    def paged(
        q: Tensor, keys: Tensor, values: Tensor, table: Tensor, length: int, left: int, cap: float
    ) -> Tensor:
        assert table.dtype == torch.int32 and keys.ndim == 4 and q.ndim == 3
        k, v = (x[table.long()].flatten(0, 1)[:length] for x in (keys, values))
        padding = q.new_zeros(length - len(q), *q.shape[1:])
        window = None if left < 0 else left + 1
        return expected(torch.cat((padding, q)), k, v, window, cap=cap or None)[-len(q) :]

    def flash_attn_with_kvcache(
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        k: None = None,
        v: None = None,
        rotary_cos: None = None,
        rotary_sin: None = None,
        cache_seqlens: Tensor | None = None,
        cache_batch_idx: None = None,
        cache_leftpad: None = None,
        block_table: Tensor | None = None,
        softmax_scale: None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        rotary_interleaved: bool = True,
        alibi_slopes: None = None,
        num_splits: int = 0,
        return_softmax_lse: bool = False,
    ) -> Tensor:
        calls.append("kvcache")
        assert cache_seqlens is not None and block_table is not None and causal
        assert cache_seqlens.dtype == torch.int32
        rows = zip(q, block_table, cache_seqlens.tolist(), strict=True)
        return torch.stack(
            [paged(x, k_cache, v_cache, t, n, window_size[0], softcap) for x, t, n in rows]
        )

    def flash_attn_varlen_func(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: Tensor | None = None,
    ) -> Tensor:
        calls.append("varlen")
        assert block_table is not None and causal
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        q_at, k_at = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
        assert max_seqlen_q == max(b - a for a, b in pairwise(q_at))
        assert max_seqlen_k == max(b - a for a, b in pairwise(k_at))
        parts = []
        for (a, b), (c, d), t in zip(pairwise(q_at), pairwise(k_at), block_table, strict=True):
            parts.append(paged(q[a:b], k, v, t, d - c, window_size[0], softcap))
        return torch.cat(parts)

    package = ModuleType("flash_attn")
    package.flash_attn_with_kvcache = flash_attn_with_kvcache  # type: ignore[attr-defined]
    package.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    return package


@pytest.mark.parametrize("window", [None, 1, 3, 6])
@pytest.mark.parametrize("cap", [None, 0.5])
def test_flash_attn_is_handed_what_it_needs(
    window: int | None, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.torch.attention.flash import FlashAttention

    calls: list[str] = []
    monkeypatch.setitem(sys.modules, "flash_attn", flash_package(calls))
    torch.manual_seed(3)
    shape = config(window, attn_logit_softcapping=cap)
    caches = [KVCache(shape, 20, BLOCK, device=CPU, dtype=torch.float32) for _ in range(2)]
    agree(FlashAttention(shape, caches[0]), SdpaAttention(shape, caches[1]))
    assert calls == ["varlen", "varlen", "varlen", "kvcache", "kvcache"]


def test_flash_attn_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr("engine.torch.attention.refusal", lambda *_: None)
    with pytest.raises(MissingExtra, match="flash_attn is not installed"):
        attention_backend("flash_attn", config(), cache_of(config()))


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8, torch.float8_e4m3fn])
def test_split_and_varlen_hand_every_row_what_it_needs(
    window: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.torch.attention import varlen

    monkeypatch.setattr(varlen, "varlen_attn", flash_in_plain_torch)
    torch.manual_seed(3)
    caches = [KVCache(config(window), 20, BLOCK, device=CPU, dtype=dtype) for _ in range(2)]
    split = SplitAttention(
        SdpaAttention(config(window), caches[0]), varlen.VarlenPrefill(config(window), caches[0])
    )
    reference = SdpaAttention(config(window), caches[1])
    agree(split, reference)


def agree(tried: AttentionBackend, reference: AttentionBackend) -> None:
    """Check that both give the same for prompts in pieces, beside decode, and decode alone."""
    rows = [sequence(5, [9, 3]), sequence(14, [0, 1, 7, 2]), sequence(11, [5, 4, 8])]
    for counts in ([4, 6, 0], [1, 8, 5], [0, 0, 5], [0, 0, 1], [0, 0, 0]):
        if not any(counts):
            rows = [sequence(5, [9, 3]), sequence(14, [0, 1, 7, 2])]
            for row in rows:
                row.num_computed = len(row.tokens) - 1
            counts = [1, 1]
        slices = [Slice(r, n) for r, n in zip(rows, counts, strict=True) if n]
        batch = build_batch(slices, BLOCK, CPU)
        q, k, v = random_qkv(len(batch.tokens))
        out = []
        for backend in (tried, reference):
            backend.prepare(batch)
            out.append(backend.attend(0, q, k, v))
        torch.testing.assert_close(out[0], out[1], atol=2e-6, rtol=1e-5)
        for slice_ in slices:
            slice_.sequence.num_computed += slice_.num_tokens


def test_triton_on_a_cpu_is_refused_unless_it_is_interpreted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape = config()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert refusal(BACKENDS["triton"], shape, cache_of(shape)) is None
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "needs a GPU" in str(refusal(BACKENDS["triton"], shape, cache_of(shape)))
