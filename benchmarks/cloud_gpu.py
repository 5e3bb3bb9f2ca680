"""The rows that need a CUDA device, which scripts/gpu runs."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone.attention import dot_product
from benchmarks.cloud_load import words
from benchmarks.cloud_models import BenchModel, random_int4_model, random_model
from benchmarks.cloud_sides import Job, Theirs, our_engine, ours, ours_together
from cloud.engine.engine import CloudEngine
from quantize.packed_products import FastInt4Linear
from quantize.quantized_linear import CodedLinear

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Where the rows run, how large they are, and which switches are on and off."""

    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    shapes: tuple[str, ...] = ("qwen3-0.6b", "qwen3-1.7b", "llama-3.1-8b")
    num_decoded: int = 512
    num_requests: int = 256
    lengths: tuple[int, int] = (100, 1024)  # of prompts and answers
    max_model_len: int = 4096
    prefill_tokens: int = 32768
    copied_bytes: int = 1 << 30
    matmul_size: int = 8192
    on: dict[str, Any] = field(
        default_factory=lambda: {"enforce_eager": False, "attention_backend": "triton+varlen"}
    )
    off: dict[str, Any] = field(
        default_factory=lambda: {
            "enforce_eager": True,
            "fuse_operators": False,
            "attention_backend": "torch",
            "enable_prefix_caching": False,
        }
    )


MINIATURE = Setup(
    device="cpu",
    dtype=torch.float32,
    shapes=("miniature",),
    num_decoded=12,
    num_requests=3,
    lengths=(4, 8),
    max_model_len=128,
    prefill_tokens=64,
    copied_bytes=1 << 16,
    matmul_size=64,
    on={"enforce_eager": True, "attention_backend": "torch", "async_scheduling": True},
)


async def decode(setup: Setup) -> Row:
    """Decode at batch 1: the share of the memory bandwidth, and the gain over all switches off."""
    copied = copy_rate_bytes_per_s(setup)
    told: Row = {
        "copy_gb_per_s": round(copied / 1e9, 1),
        "goal_of_limit": 0.8,
        "goal_over_off": 2.2,
    }
    for shape in setup.shapes:
        speeds, counted = {}, {}
        for name, options in (("on", setup.on), ("off", setup.off)):
            sizes = {"max_model_len": min(2048, setup.max_model_len), "max_num_seqs": 8}
            async with engine_of(setup, shape, **sizes, **options) as engine:
                speeds[name] = await decode_speed(engine, setup.num_decoded)
                weight_bytes = engine.card().size_bytes
                counted[name] = counts(engine)
        told[shape] = {
            "of_limit": round(speeds["on"] * weight_bytes / copied, 3),
            "over_off": round(speeds["on"] / speeds["off"], 2),
            "tokens_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
            "gb_per_s": round(speeds["on"] * weight_bytes / 1e9, 1),
            "counts": counted,
        }
    return told


async def int4_decode(setup: Setup) -> Row:
    """Decode at batch 1 of the largest shape with weights in four bits, beside half precision."""
    shape = setup.shapes[-1]
    sizes = {"max_model_len": min(2048, setup.max_model_len), "max_num_seqs": 8}
    speeds, layers = {}, {}
    for name, make in (("plain", random_model), ("int4", random_int4_model)):
        async with engine_of(setup, shape, make=make, **sizes, **setup.on) as engine:
            speeds[name] = await decode_speed(engine, setup.num_decoded)
            kinds = Counter(type(each).__name__ for each in linears(engine.runner.network))
            layers[name] = dict(kinds)
    ratio = speeds["int4"] / speeds["plain"]
    return {
        "shape": shape,
        "ratio": round(ratio, 2),
        "goal": 2.2,
        "met": ratio >= 2.2,
        "tokens_per_s": {name: round(speed, 1) for name, speed in speeds.items()},
        "layers": layers["int4"],
    }


def linears(network: object) -> Iterator[nn.Module]:
    """Yield the quantized layers of a network, or none of one that has been fused."""
    for module in network.modules() if isinstance(network, nn.Module) else ():
        if isinstance(module, CodedLinear | FastInt4Linear):
            yield module


async def throughput(setup: Setup) -> Row:
    """256 requests of 100 to 1024 tokens in and out, beside transformers' continuous batching."""
    chance = random.Random(0)
    jobs = [
        Job(
            words(max(1, chance.randint(*setup.lengths) // 2), chance),
            chance.randint(*setup.lengths),
        )
        for _ in range(setup.num_requests)
    ]
    shape = setup.shapes[0]
    sizes = {"max_model_len": setup.max_model_len, "max_num_seqs": setup.num_requests}
    async with engine_of(setup, shape, **sizes, **setup.on) as engine:
        ours_s, made = await _timed(setup, ours_together(engine, jobs))
        counted = counts(engine)
    with tempfile.TemporaryDirectory() as where:
        folder = random_model(Path(where), shape, setup.dtype).folder
        theirs = Theirs(folder, setup.device, setup.dtype)
        with theirs.continuous(sum(4 * job.num_tokens for job in jobs)) as batched:
            theirs_s, _ = await _timed(setup, asyncio.to_thread(batched, jobs))
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
        "counts": counted,
    }


async def long_prefill(setup: Setup) -> Row:
    """Attention of a 32k-token prompt, beside the measured rate of bfloat16 matrix products."""
    length, heads, dim = setup.prefill_tokens, 32, 128
    shape = (length, heads, dim)
    q, k, v = (torch.randn(shape, device=setup.device, dtype=setup.dtype) for _ in "qkv")
    attend_s = _seconds(setup, _prompt_attention(setup, q, k, v))
    flops = 2 * length * length * heads * dim  # two products, half of them masked away
    matmul = matmul_rate_flops_per_s(setup)
    share = flops / attend_s / matmul
    return {
        "of_matmul_rate": round(share, 3),
        "goal": 0.5,
        "met": share >= 0.5,
        "tokens": length,
        "tflops": {"attention": round(flops / attend_s / 1e12), "matmul": round(matmul / 1e12)},
    }


GPU_ROWS: dict[str, Callable[[Setup], Awaitable[Row]]] = {
    "gpu-decode": decode,
    "gpu-throughput": throughput,
    "gpu-prefill-32k": long_prefill,
    "gpu-int4": int4_decode,
}


def counts(engine: CloudEngine) -> Row:
    """Return what to look at first where a figure is bad: each is cheap to go wrong in silence."""
    runner = engine.runner
    graphs = runner.graphs
    return {
        "graph_replays": graphs.num_replays if graphs else 0,
        "steps": runner.num_steps,
        "compiled_graphs": torch._dynamo.utils.counters["stats"].get("unique_graphs", 0),
        "triton_variants": _triton_variants(),
        "kv_blocks": engine.cache.num_blocks,
        "preemptions": engine.report().num_preemptions,
    }


def _triton_variants() -> int:
    """Return how often the decode kernel was compiled; more than a few is one for every step."""
    try:
        from engine.torch.attention.kernels import partial_kernel
    except ModuleNotFoundError:
        return 0
    caches = getattr(partial_kernel, "device_caches", {})
    return sum(len(cache[0]) for cache in caches.values())


def copy_rate_bytes_per_s(setup: Setup) -> float:
    """Return the bytes that a copy reads and writes each second."""
    source = torch.empty(setup.copied_bytes, device=setup.device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(setup, lambda: target.copy_(source))


def matmul_rate_flops_per_s(setup: Setup) -> float:
    """Return the rate of a large matrix product."""
    size = (setup.matmul_size, setup.matmul_size)
    a, b = (torch.randn(size, device=setup.device, dtype=setup.dtype) for _ in "ab")
    return 2 * setup.matmul_size**3 / _seconds(setup, lambda: a @ b)


def _prompt_attention(setup: Setup, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], object]:
    if setup.device == "cpu":  # torch has no varlen_attn there
        heads = (x.transpose(0, 1) for x in (q, k, v))
        return partial(dot_product, *heads, is_causal=True)
    from torch.nn.attention.varlen import varlen_attn

    length = len(q)
    ends = torch.tensor((0, length), device=setup.device, dtype=torch.int32)
    return lambda: varlen_attn(q, k, v, ends, ends, length, length, window_size=(-1, 0))


def _seconds(setup: Setup, work: Callable[[], object], rounds: int = 20) -> float:
    for _ in range(3):
        work()
    _wait(setup)
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    _wait(setup)
    return (time.perf_counter() - began) / rounds


def _wait(setup: Setup) -> None:
    if setup.device == "cuda":
        torch.cuda.synchronize()


async def decode_speed(engine: CloudEngine, num_tokens: int) -> float:
    """Return tokens a second after the first, of one answer alone."""
    await ours(engine, Job("warm up", min(32, num_tokens)))
    told = await ours(engine, Job(words(32, random.Random(1)), num_tokens))
    return (len(told.tokens) - 1) / (told.last_s - told.first_s)


async def _timed(setup: Setup, work: Awaitable[Any]) -> tuple[float, Any]:
    _wait(setup)
    began = time.perf_counter()
    made = await work
    return time.perf_counter() - began, made


@asynccontextmanager
async def engine_of(
    setup: Setup, shape: str, *, make: Callable[..., BenchModel] = random_model, **options: Any
) -> AsyncIterator[CloudEngine]:
    """Open an engine of a random model of a shape, and leave no trace of it behind."""
    with tempfile.TemporaryDirectory() as where:
        model = make(Path(where), shape, setup.dtype)
        async with our_engine(model.folder, device=setup.device, **options) as engine:
            yield engine
    if setup.device == "cuda":
        torch.cuda.empty_cache()
