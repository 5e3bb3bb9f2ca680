"""The rows of benchmarks/cloud.py that need a CUDA device; they are run all at once there."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.cloud_load import words
from benchmarks.cloud_models import random_model
from benchmarks.cloud_sides import Job, Theirs, our_engine, ours, ours_together
from cloud.engine.engine import CloudEngine

Row = dict[str, Any]
_DECODE_SHAPES = ("qwen3-0.6b", "qwen3-1.7b", "llama-3.1-8b")
_ON: dict[str, Any] = {"enforce_eager": False, "attention_backend": "triton+varlen"}
_OFF: dict[str, Any] = {
    "enforce_eager": True,
    "fuse_operators": False,
    "attention_backend": "torch",
    "enable_prefix_caching": False,
}


async def decode(*, quick: bool) -> Row:
    """Decode at batch 1: the share of the memory bandwidth, and the gain over all switches off."""
    copied = copy_rate_bytes_per_s()
    told: Row = {
        "copy_gb_per_s": round(copied / 1e9, 1),
        "goal_of_limit": 0.8,
        "goal_over_off": 2.2,
    }
    for shape in _DECODE_SHAPES[: 1 if quick else None]:
        speeds = {}
        for name, options in (("on", _ON), ("off", _OFF)):
            async with _engine(shape, max_model_len=2048, max_num_seqs=8, **options) as engine:
                speeds[name] = await _decode_speed(engine)
                weight_bytes = engine.card().size_bytes
        told[shape] = {
            "of_limit": round(speeds["on"] * weight_bytes / copied, 3),
            "over_off": round(speeds["on"] / speeds["off"], 2),
            "tokens_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
            "gb_per_s": round(speeds["on"] * weight_bytes / 1e9, 1),
        }
    return told


async def throughput(*, quick: bool) -> Row:
    """256 requests of 100 to 1024 tokens in and out, beside transformers' continuous batching."""
    chance = random.Random(0)
    count = 32 if quick else 256
    jobs = [
        Job(words(chance.randint(100, 1024) // 2, chance), chance.randint(100, 1024))
        for _ in range(count)
    ]
    async with _engine("qwen3-0.6b", max_model_len=4096, max_num_seqs=256, **_ON) as engine:
        ours_s, made = await _timed(ours_together(engine, jobs))
    with tempfile.TemporaryDirectory() as place:
        folder = random_model(Path(place), "qwen3-0.6b", torch.bfloat16).folder
        theirs = Theirs(folder, "cuda", torch.bfloat16)
        with theirs.continuous(sum(4 * job.num_tokens for job in jobs)) as batched:
            theirs_s, _ = await _timed(asyncio.to_thread(batched, jobs))
    num_tokens = sum(len(one.tokens) for one in made)
    return {
        "ratio": round(theirs_s / ours_s, 2),
        "goal": 3,
        "met": theirs_s / ours_s >= 3,
        "tokens": num_tokens,
        "tokens_per_s": {
            "ours": round(num_tokens / ours_s, 1),
            "generate_batch": round(num_tokens / theirs_s, 1),
        },
    }


async def long_prefill(*, quick: bool) -> Row:
    """Attention of a 32k-token prompt, beside the measured rate of bfloat16 matrix products."""
    from torch.nn.attention.varlen import varlen_attn

    length, heads, dim = (8192 if quick else 32768), 32, 128
    q, k, v = (torch.randn(length, heads, dim, device="cuda", dtype=torch.bfloat16) for _ in "qkv")
    ends = torch.tensor((0, length), device="cuda", dtype=torch.int32)
    attend_s = _gpu_seconds(
        lambda: varlen_attn(q, k, v, ends, ends, length, length, window_size=(-1, 0))
    )
    flops = 2 * length * length * heads * dim  # two products, half of them masked away
    matmul = matmul_rate_flops_per_s()
    share = flops / attend_s / matmul
    return {
        "of_matmul_rate": round(share, 3),
        "goal": 0.5,
        "met": share >= 0.5,
        "tokens": length,
        "tflops": {"attention": round(flops / attend_s / 1e12), "matmul": round(matmul / 1e12)},
    }


GPU_ROWS: dict[str, Callable[..., Awaitable[Row]]] = {
    "gpu-decode": decode,
    "gpu-throughput": throughput,
    "gpu-prefill-32k": long_prefill,
}


def copy_rate_bytes_per_s() -> float:
    """Return the bytes that a copy reads and writes each second."""
    source = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / _gpu_seconds(lambda: target.copy_(source))


def matmul_rate_flops_per_s() -> float:
    """Return the rate of a large bfloat16 matrix product."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    return 2 * 8192**3 / _gpu_seconds(lambda: a @ b)


def _gpu_seconds(work: Callable[[], object], rounds: int = 20) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / rounds


async def _decode_speed(engine: CloudEngine) -> float:
    """Return tokens a second after the first, of one answer alone."""
    await ours(engine, Job("warm up", 32))
    told = await ours(engine, Job(words(32, random.Random(1)), 512))
    return (len(told.tokens) - 1) / (told.last_s - told.first_s)


async def _timed(work: Awaitable[Any]) -> tuple[float, Any]:
    torch.cuda.synchronize()
    began = time.perf_counter()
    made = await work
    return time.perf_counter() - began, made


@asynccontextmanager
async def _engine(shape: str, **options: Any) -> AsyncIterator[CloudEngine]:
    with tempfile.TemporaryDirectory() as place:
        model = random_model(Path(place), shape, torch.bfloat16)
        async with our_engine(model.folder, device="cuda", **options) as engine:
            yield engine
    torch.cuda.empty_cache()
