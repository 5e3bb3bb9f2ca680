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

from backbone.config import NetworkConfig  # noqa: E402
from cloud.engine.engine import CloudEngine  # noqa: E402
from engine.torch.attention.base import triton_and_sdpa  # noqa: E402
from engine.torch.attention.sdpa import SdpaAttention  # noqa: E402
from engine.torch.attention.triton_decode import num_splits, paged_decode  # noqa: E402
from engine.torch.cuda_graphs import DecodeGraphs, graph_sizes  # noqa: E402
from engine.torch.kv.batch import BatchRow, StepBatch  # noqa: E402
from engine.torch.kv.kv_cache import KVCache  # noqa: E402
from engine.torch.options import EngineOptions  # noqa: E402
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


SHAPES = pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "block_size", "window", "sinks", "cap", "lengths"),
    [
        (4, 2, 16, 4, None, 0, None, [1, 5, 33]),
        (3, 1, 64, 16, None, 0, None, [300, 17, 0]),
        (6, 2, 24, 8, None, 0, None, [40, 1]),
        (8, 8, 32, 16, None, 0, None, [70]),
        (32, 1, 16, 16, None, 0, None, [20]),
        (2, 1, 80, 16, None, 0, None, [35]),
        (2, 2, 192, 32, None, 0, None, [35, 64]),
        (4, 2, 16, 4, 7, 0, None, [3, 7, 8, 50]),
        (4, 2, 16, 4, 100, 0, None, [3, 120]),
        (4, 2, 16, 4, 7, 4, None, [0, 3, 10, 11, 12, 50]),
        (4, 2, 16, 4, 33, 5, None, [30, 39, 200]),
        (4, 2, 16, 4, None, 3, None, [30]),
        (4, 2, 16, 4, None, 0, 0.7, [1, 33, 0]),
        (6, 2, 24, 8, 9, 2, 0.3, [4, 40]),
    ],
)


@SHAPES
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


@SHAPES
@pytest.mark.parametrize(
    ("stored", "dtype"),
    # The interpreter takes bfloat16 for integers in products; float16 stands in for it.
    [(torch.int8, torch.float32), (torch.float8_e4m3fn, torch.float16)],
    ids=["int8", "fp8"],
)
def test_a_cache_of_eight_bits_is_read_as_the_reference_reads_it(
    heads: int,
    kv_heads: int,
    dim: int,
    block_size: int,
    window: int | None,
    sinks: int,
    cap: float | None,
    lengths: list[int],
    stored: torch.dtype,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    shape = NetworkConfig(
        vocab_size=9,
        hidden_size=heads * dim,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=dim,
        max_position_embeddings=512,
        sliding_window=window,
        num_sinks=sinks,
        attn_logit_softcapping=cap,
        model_type="mistral",
    )
    lengths = [length for length in lengths if length]
    num_blocks = sum(-(-length // block_size) for length in lengths) + 3
    order = torch.randperm(num_blocks).tolist()
    cache = KVCache(shape, num_blocks, block_size, device=DEVICE, dtype=stored)
    filled = torch.arange(num_blocks * block_size, device=DEVICE)
    # Of many sizes, so that each scale matters.
    size = 10.0 ** torch.randint(-3, 2, (len(filled), kv_heads, 1), device=DEVICE)
    k, v = torch.randn(2, len(filled), kv_heads, dim, device=DEVICE) * size
    cache.store(0, k, v, filled)
    rows, slots = [], []
    for at, length in enumerate(lengths):
        blocks = [order.pop() for _ in range(-(-length // block_size))]
        rows.append(BatchRow(at, 1, length, blocks))
        slots.append(blocks[(length - 1) // block_size] * block_size + (length - 1) % block_size)
    where = torch.tensor(slots, device=DEVICE)
    batch = StepBatch(where, where, where, rows)
    q = torch.randn(len(rows), heads, dim, device=DEVICE, dtype=dtype)
    new = torch.randn(2, len(rows), kv_heads, dim, device=DEVICE, dtype=dtype)
    found = []
    for backend in (triton_and_sdpa(shape, cache), SdpaAttention(shape, cache)):
        backend.prepare(batch)
        found.append(backend.attend(0, q, new[0], new[1]).float())
    close = 1e-5 if dtype == torch.float32 else 4e-3
    largest = float(found[1].abs().max())
    torch.testing.assert_close(found[0], found[1], atol=close * largest, rtol=close)


@pytest.mark.parametrize(
    ("tiles", "processors", "splits"),
    [(1, 132, 32), (8, 132, 32), (16, 132, 32), (64, 132, 8), (264, 132, 1), (2048, 132, 1)],
)
def test_few_sequences_are_split_until_every_processor_has_work(
    tiles: int, processors: int, splits: int
) -> None:
    assert num_splits(tiles, processors) == splits


def test_every_bit_pattern_of_e4m3_is_decoded_as_torch_does() -> None:
    # A single key is its own answer: the attention of one key is its value.
    patterns = torch.arange(256, dtype=torch.uint8)
    patterns = patterns[(patterns & 0x7F) != 0x7F].reshape(-1, 1, 2)  # without NaN
    values = patterns.repeat(1, 1, 8).view(torch.float8_e4m3fn).to(DEVICE)
    count = len(values)
    ones = torch.ones(count, 1, 1, device=DEVICE)
    out = paged_decode(
        torch.ones(count, 1, 16, device=DEVICE),
        torch.zeros_like(values),
        values,
        torch.arange(count, device=DEVICE, dtype=torch.int32)[:, None],
        torch.ones(count, device=DEVICE, dtype=torch.int32),
        block_size=1,
        scales=(ones, ones),
    )
    assert torch.equal(out, values.float())


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


def replayed_by_hand(step: Callable[[], object]) -> Callable[[], object]:
    """Stand in for a CUDA graph: the same memory is filled anew at every replay."""
    step()
    return step


@pytest.mark.skipif(ON_GPU, reason="stands in for a GPU")
async def test_a_recorded_step_of_any_size_writes_the_same_tokens(folder: Path) -> None:
    engine = CloudEngine(folder, options=EngineOptions(device="cpu", max_model_len=64))
    runner = engine.runner
    with torch.inference_mode():
        graphs = DecodeGraphs(
            runner.network,
            engine.cache,
            [1, 3],
            max_model_len=64,
            capture=replayed_by_hand,
        )
    runner.graphs = graphs
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
