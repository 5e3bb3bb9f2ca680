"""The Triton kernel computes what the reference computes; without a GPU, in its interpreter."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ON_GPU = torch.cuda.is_available()
if not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton", reason="triton is not installed")

from cloud.engine.attention.triton_decode import paged_decode  # noqa: E402
from cloud.engine.engine import CloudEngine  # noqa: E402
from cloud.engine.graphs import DecodeGraphs, graph_sizes  # noqa: E402
from cloud.engine.options import EngineOptions  # noqa: E402
from tests.cloud.golden import answer, ask, reference_tokens, tokens_of  # noqa: E402
from tests.tiny_checkpoints import write_checkpoint  # noqa: E402

DEVICE = torch.device("cuda" if ON_GPU else "cpu")


def reference(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    num_sinks: int = 0,
    cap: float | None = None,
) -> torch.Tensor:
    """Return the attention [heads, dim] of one query over keys [tokens, kv_heads, dim]."""
    if window is not None:
        at = torch.arange(len(keys))
        seen = (at >= len(keys) - window) | (at < num_sinks)
        keys, values = keys[seen], values[seen]
    group = q.shape[0] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1).double() for x in (keys, values))
    scores = torch.einsum("hd,khd->hk", q.double(), keys) / q.shape[1] ** 0.5
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    return torch.einsum("hk,khd->hd", torch.softmax(scores, -1), values)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "block_size", "window", "sinks", "cap", "lengths"),
    [
        (4, 2, 16, 4, None, 0, None, [1, 5, 33]),
        (3, 1, 64, 16, None, 0, None, [300, 17, 0]),
        (6, 2, 24, 8, None, 0, None, [40, 1]),
        (8, 8, 32, 16, None, 0, None, [70]),
        (32, 1, 16, 16, None, 0, None, [20]),
        (4, 2, 16, 4, 7, 0, None, [3, 7, 8, 50]),
        (4, 2, 16, 4, 100, 0, None, [3, 120]),
        (4, 2, 16, 4, 7, 4, None, [0, 3, 10, 11, 12, 50]),
        (4, 2, 16, 4, 33, 5, None, [30, 39, 200]),
        (4, 2, 16, 4, None, 3, None, [30]),
        (4, 2, 16, 4, None, 0, 0.7, [1, 33, 0]),
        (6, 2, 24, 8, 9, 2, 0.3, [4, 40]),
    ],
)
def test_paged_decode_equals_plain_attention(
    heads: int,
    kv_heads: int,
    dim: int,
    block_size: int,
    window: int | None,
    sinks: int,
    cap: float | None,
    lengths: list[int],
) -> None:
    torch.manual_seed(0)
    num_blocks = sum(-(-length // block_size) for length in lengths) + 3
    order = torch.randperm(num_blocks).tolist()
    keys, values = torch.randn(2, num_blocks * block_size, kv_heads, dim)
    q = torch.randn(len(lengths), heads, dim)
    width = max(-(-length // block_size) for length in lengths)
    table = torch.zeros(len(lengths), width, dtype=torch.int32)
    expected = torch.zeros(len(lengths), heads, dim, dtype=torch.float64)
    for i, length in enumerate(lengths):
        blocks = [order.pop() for _ in range(-(-length // block_size))]
        table[i, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
        slots = [blocks[at // block_size] * block_size + at % block_size for at in range(length)]
        if length:
            expected[i] = reference(q[i], keys[slots], values[slots], window, sinks, cap)
    out = paged_decode(
        q.to(DEVICE),
        keys.to(DEVICE),
        values.to(DEVICE),
        table.to(DEVICE),
        torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        block_size=block_size,
        window=window,
        num_sinks=sinks,
        soft_cap=cap,
    )
    torch.testing.assert_close(out.cpu().double(), expected, atol=2e-6, rtol=1e-5)


def test_storage_of_other_sequences_is_not_read() -> None:
    keys, values = torch.full((2, 64, 2, 16), float("nan"))
    keys[16:20], values[16:20] = 1.0, 2.0
    out = paged_decode(
        torch.ones(1, 4, 16, device=DEVICE),
        keys.to(DEVICE),
        values.to(DEVICE),
        torch.tensor([[1]], dtype=torch.int32, device=DEVICE),
        torch.tensor([4], dtype=torch.int32, device=DEVICE),
        block_size=16,
    )
    torch.testing.assert_close(out.cpu(), torch.full((1, 4, 16), 2.0))


PROMPTS = ["the cat and the dog", "é"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model"), "mistral-window")


async def test_the_engine_writes_transformers_tokens_through_the_kernel(folder: Path) -> None:
    options = EngineOptions(dtype="float32", attention_backend="triton", max_model_len=64)
    engine = CloudEngine(folder, options=options)
    answers = await asyncio.gather(*(answer(engine, ask(p, max_tokens=3)) for p in PROMPTS))
    expected = [reference_tokens(folder, prompt, 3) for prompt in PROMPTS]
    assert [tokens_of(deltas) for deltas, _ in answers] == expected
    await engine.aclose()


def replayed_by_hand(
    step: Callable[[], torch.Tensor],
) -> tuple[Callable[[], object], torch.Tensor]:
    """Stand in for a CUDA graph: the same memory is filled anew at every replay."""
    out = step().clone()
    return lambda: out.copy_(step()), out


@pytest.mark.skipif(ON_GPU, reason="stands in for a GPU")
async def test_a_recorded_step_of_any_size_writes_the_same_tokens(folder: Path) -> None:
    engine = CloudEngine(folder, options=EngineOptions(device="cpu", max_model_len=64))
    runner = engine._loop._batching._step.__self__  # type: ignore[attr-defined]
    with torch.inference_mode():
        graphs = DecodeGraphs(
            runner._network,
            runner._attention._cache,
            [1, 3],
            max_model_len=64,
            capture=replayed_by_hand,
        )
    runner._graphs = graphs
    answers = await asyncio.gather(*(answer(engine, ask(p, max_tokens=3)) for p in PROMPTS))
    expected = [reference_tokens(folder, prompt, 3) for prompt in PROMPTS]
    assert [tokens_of(deltas) for deltas, _ in answers] == expected
    await engine.aclose()


@pytest.mark.parametrize("most", [1, 3, 8, 20, 128])
def test_every_batch_has_a_recorded_size(most: int) -> None:
    sizes = graph_sizes(most)
    assert sizes[0] == 1 and sizes[-1] == most and sizes == sorted(set(sizes))


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
def test_half_precision_on_a_gpu_stays_close() -> None:
    torch.manual_seed(0)
    keys, values = torch.randn(2, 512, 4, 128, device=DEVICE, dtype=torch.bfloat16)
    q = torch.randn(1, 16, 128, device=DEVICE, dtype=torch.bfloat16)
    table = torch.arange(32, device=DEVICE, dtype=torch.int32)[None]
    lengths = torch.tensor([500], device=DEVICE, dtype=torch.int32)
    out = paged_decode(q, keys, values, table, lengths, block_size=16)
    expected = reference(q[0], keys[:500], values[:500], None)
    torch.testing.assert_close(out[0].double(), expected, atol=2e-2, rtol=2e-2)
