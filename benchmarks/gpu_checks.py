"""The checks of scripts/gpu: what computes on a device is what the plain network computes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from backbone.attention import causal_attention
from benchmarks.cloud_gpu import Row, Setup
from benchmarks.cloud_models import random_model
from benchmarks.cloud_sides import Job, our_engine, ours
from engine.torch.attention import BACKENDS, refusal
from engine.torch.kv.kv_cache import KVCache
from engine.torch.options import EngineOptions
from engine.torch.step_timing import SampleWeights, TimedWay, reference_logits, sample_config
from engine.torch.tensor_parallel import Group, Rendezvous
from quantize.gptq import GptqOptions, quantize_matrix
from quantize.loading import read_network
from quantize.model_files import FolderFiles
from quantize.packed_products import quickest
from quantize.quantized_linear import CodedLinear, GptqLinear, Int8Linear

_PROMPT, _NUM_TOKENS = "the cat sat on the mat", 24
_FAR = 0.05  # of logits or products in half precision, relative; float32 is far below


async def goldens(setup: Setup, shape: str = "miniature", **options: Any) -> Row:
    """Greedy tokens of an engine in float32, beside the plain network's, one by one."""
    with tempfile.TemporaryDirectory() as where:
        folder = random_model(Path(where), shape, torch.float32).folder
        sizes = {"max_model_len": 256, "max_num_seqs": 8, "num_speculative_tokens": 0}
        given = {"dtype": "float32", "device": setup.device, **sizes, **options}
        async with our_engine(folder, **given) as engine:
            start = engine.tokenize(_PROMPT)
            found = list((await ours(engine, Job(_PROMPT, _NUM_TOKENS))).tokens)
        expected = _plain_tokens(folder, start, setup.device)
    return _told(found == expected, {"tokens": len(found)})


def _plain_tokens(folder: Path, start: list[int], device: str) -> list[int]:
    network = read_network(FolderFiles(folder), device=device)
    known = list(start)
    with torch.inference_mode():
        attend = causal_attention(network.config)
        for _ in range(_NUM_TOKENS):
            at = torch.arange(len(known), device=device)
            hidden = network(torch.tensor(known, device=device), at, attend)
            known.append(int(network.logits(hidden[-1:]).argmax()))
    return known[len(start) :]


async def mixture(setup: Setup) -> Row:
    """The same for a mixture of experts with windows."""
    return await goldens(setup, "random-moe-windows")


async def recorded(setup: Setup) -> Row:
    """The same with CUDA graphs, which the eager engine is then beside."""
    if setup.device == "cpu":
        return {"left out": "CUDA graphs need a GPU"}
    return await goldens(setup, enforce_eager=False, attention_backend="triton")


async def backends(setup: Setup) -> Row:
    """Every attention backend's logits, beside the plain network's in float32."""
    device, told = torch.device(setup.device), {}
    with tempfile.TemporaryDirectory() as where:
        folder = random_model(Path(where), "miniature", setup.dtype).folder
        config = sample_config(FolderFiles(folder).network_config())
    name = str(setup.dtype).removeprefix("torch.")
    options = EngineOptions(device=setup.device, dtype=name)  # type: ignore[arg-type]
    weights = SampleWeights(config, device)
    expected = reference_logits(weights, config)
    is_right = True
    for backend, entry in BACKENDS.items():
        size = max(options.block_size, entry.block_multiple)
        tried = replace(options, attention_backend=backend, block_size=size)
        cache = KVCache(config, 1, size, device=device, dtype=tried.cache_dtype())
        if reason := refusal(entry, config, cache, setup.dtype):
            told[backend] = f"left out: it {reason}"
            continue
        try:
            found = TimedWay(weights, config, tried).logits()
        except Exception as error:
            told[backend] = f"left out: {type(error).__name__}: {error}"[:200]
            continue
        off = float((found - expected).norm() / expected.norm())
        told[backend] = round(off, 6)
        is_right = is_right and off < _FAR
    return _told(is_right, {"off": told})


async def products(setup: Setup) -> Row:
    """The int4 and int8 layers that are taken on the device, beside their decoded weights."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(512, 1024, generator=generator) / 32
    matrix = quantize_matrix(weight, torch.eye(1024), GptqOptions(group_size=128))
    largest = weight.abs().amax(1)
    integers = (weight / largest.unsqueeze(1) * 127).round().to(torch.int8)
    layers: dict[str, CodedLinear] = {
        "int4": GptqLinear(matrix, bits=4),
        "int8": Int8Linear(integers, largest),
    }
    told: dict[str, Any] = {}
    for name, layer in layers.items():
        plain = layer.to(setup.device)
        taken = quickest(plain).to(setup.device)
        x = torch.randn(8, 1024, generator=generator).to(setup.device, setup.dtype)
        expected = x.float() @ plain.weight_float().T
        off = float((taken(x).float() - expected).norm() / expected.norm())
        told[name] = {"layer": type(taken).__name__, "off": round(off, 5)}
    return _told(all(row["off"] < _FAR for row in told.values()), told)


async def shared(setup: Setup) -> Row:
    """A group of one process sums what it has."""
    with tempfile.TemporaryDirectory() as where:
        rendezvous = Rendezvous(rank=0, size=1, address=f"file://{where}/meeting")
        group = Group(rendezvous, torch.device(setup.device))
        try:
            part = torch.arange(4.0, device=setup.device)
            found = group.all_reduce(part.clone())
            return _told(bool((found == part).all()), {"size": group.size})
        finally:
            with suppress(RuntimeError, ValueError):
                distributed.destroy_process_group()


def _told(is_right: bool, row: Mapping[str, Any]) -> Row:
    return {"right": is_right, **row}


CHECKS: dict[str, Callable[[Setup], Any]] = {
    "check-goldens": goldens,
    "check-backends": backends,
    "check-graphs": recorded,
    "check-products": products,
    "check-mixture": mixture,
    "check-shared": shared,
}
