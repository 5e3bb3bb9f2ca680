"""The torch runtime of the edge: what its compressed cache and its int4 linear layers are gate.

    python -m benchmarks.small_gpu kv MODEL... --json OUT
    python -m benchmarks.small_gpu linear --json OUT

`kv` scores the same tokens with every cache, ours on torch and llama.cpp's on the same weights as a
float32 GGUF, each against its own runtime in full precision. MODEL is a trained Hugging Face
folder. `linear` times one product with one row, both sides taking turns, on a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from backbone.checkpoint import load_network
from backbone.tokenizer import Tokenizer
from benchmarks.own_text import own_text
from benchmarks.pair_text import pair_text
from benchmarks.quantize import processor
from edge.llama.context import Context, ContextParams
from edge.llama.kv_types import CacheShape, KvTypes
from edge.llama.native_handles import Model
from edge.small_gpu.options import KV_BITS
from engine.torch.kv.ring_cache import Ring
from offload.pair import CLOUD_MODEL
from quantize.calibration import encode
from quantize.gguf import convert
from quantize.gptq import QuantizedMatrix
from quantize.packed_products import FastInt4Linear, quickest
from quantize.quantized_linear import GptqLinear

LogProbs = NDArray[np.float64]  # [tokens, vocab]
CHUNK, SEED = 32, 2
LLAMA_KINDS = ("f16", "q8_0", "k8v4", "q4_0")
# name -> kind, block, residual; the first is the measure of the others
TORCH_KINDS = {
    "f16": ("f16", 64, 64),
    "int8": ("int8", 64, 64),
    "k8v4": ("k8v4", 64, 64),
    "int4": ("int4", 64, 64),
    "int4, no residual": ("int4", 32, 0),
    "int2": ("int2", 64, 64),
}
SHAPES = ((896, 896), (4864, 896), (896, 4864), (2048, 2048))  # [out, in]
GROUP, NUM_CALLS = 128, 200


def main() -> None:
    """Run one of the two, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("part", choices=("kv", "linear"))
    parser.add_argument("models", type=Path, nargs="*", default=[CLOUD_MODEL])
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part == "kv":
        found: dict[str, Any] = {m.resolve().name: _kv(m, options.windows) for m in options.models}
    else:
        found = _linear()
    document = {
        options.part: found,
        "seed": SEED,
        "threads": options.threads,
        "hardware": {"processor": processor(), "system": platform.system()},
        "versions": {name: version(name) for name in ("torch", "numpy", "llama-cpp-python")},
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _kv(folder: Path, num_windows: int) -> dict[str, Any]:
    windows = _windows(folder, num_windows)
    found: dict[str, Any] = {"windows": len(windows), "window_len": len(windows[0])}
    network = load_network(folder)

    def on_torch(name: str, tokens: Sequence[int]) -> LogProbs:
        kind, block, residual = TORCH_KINDS[name]
        ring = Ring(
            network.config,
            limit=512,
            bits=KV_BITS[kind],
            block=block,
            residual=residual,
            chunk=CHUNK,
        )
        sizes.setdefault(name, (ring.num_bytes, ring.bytes_per_token))
        with torch.inference_mode():
            return np.concatenate([_ring_step(network, ring, part) for part in _cut(tokens)])

    sizes: dict[str, tuple[int, float]] = {}
    found["torch"] = _against_first(TORCH_KINDS, on_torch, windows)
    for name, row in found["torch"].items():
        row["bytes_of_512_tokens"], row["bytes_per_stored_token"] = sizes[name]
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory(prefix="nearfar-kv-"))
        model = stack.enter_context(Model(convert(folder, Path(out) / "m.gguf", kind="f32").path))
        found["llama.cpp"] = _llama_kinds(model, windows)
    return found


def _llama_kinds(model: Model, windows: Sequence[Sequence[int]]) -> dict[str, dict[str, float]]:
    shape = CacheShape.of(model)
    kinds = [kind for kind in LLAMA_KINDS if shape.allows(KvTypes.parse(kind))]
    found = _against_first(
        kinds, lambda name, tokens: _llama(model, KvTypes.parse(name), tokens), windows
    )
    for name, row in found.items():
        row["bytes_of_512_tokens"] = shape.cache_bytes(KvTypes.parse(name), 512)
    return found


def _windows(folder: Path, count: int) -> list[list[int]]:
    """Return windows of 480 tokens of what the model was trained on."""
    start = Tokenizer(folder).encode("")
    if folder.resolve() == CLOUD_MODEL.resolve():
        tokens = encode(folder, pair_text(SEED), parse_special=True)
    else:
        text = "".join(own_text(folder, SEED + i) for i in range(-(-count // 32)))
        tokens = encode(folder, text, parse_special=False)[len(start) :]
    step = 480 - len(start)
    return [start + tokens[i * step : (i + 1) * step] for i in range(count)]


def _cut(tokens: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(tokens), CHUNK):
        yield tokens[at : at + CHUNK]


def _ring_step(network: Any, ring: Ring, tokens: Sequence[int]) -> LogProbs:
    ids = torch.tensor(list(tokens))
    hidden = network(ids, torch.zeros_like(ids), ring.attend)
    ring.advance(len(tokens))
    return np.asarray(network.logits(hidden).double().log_softmax(-1).numpy())


def _llama(model: Model, kind: KvTypes, tokens: Sequence[int]) -> LogProbs:
    params = ContextParams(
        num_tokens=512, num_threads=1, batch_size=CHUNK, kv_types=kind, num_outputs=CHUNK
    )
    rows: list[NDArray[np.float64]] = []
    with Context(model, params) as context:
        for at in range(0, len(tokens), CHUNK):
            part = tokens[at : at + CHUNK]
            context.decode(part, at, all_logits=True)
            rows += [context.logits(row).astype(np.float64) for row in range(len(part))]
    logits = np.stack(rows)
    logits -= logits.max(-1, keepdims=True)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def _against_first(
    names: Sequence[str] | dict[str, Any],
    run: Callable[[str, Sequence[int]], LogProbs],
    windows: Sequence[Sequence[int]],
) -> dict[str, dict[str, float]]:
    changes: dict[str, list[float]] = {name: [] for name in names}
    divergences: dict[str, list[float]] = {name: [] for name in names}
    for tokens in windows:
        base: LogProbs | None = None
        rows, targets = np.arange(len(tokens) - 1), np.asarray(tokens[1:])
        for name in names:
            found = run(name, tokens)
            base = found if base is None else base
            changes[name] += (base[rows, targets] - found[rows, targets]).tolist()
            divergences[name].append(float((np.exp(base) * (base - found)).sum(-1).mean()))
    return {
        name: {
            "perplexity_change": math.expm1(statistics.fmean(changes[name])),
            "perplexity_change_error": statistics.pstdev(changes[name])
            / math.sqrt(len(changes[name])),
            "mean_kld": statistics.fmean(divergences[name]),
        }
        for name in names
    }


def _linear() -> dict[str, Any]:
    return {f"{rows}x{columns}": _race(rows, columns) for rows, columns in SHAPES}


@torch.inference_mode()
def _race(rows: int, columns: int) -> dict[str, float]:
    """Time one product of each kind in turn; the 20th percentile leaves out disturbances."""
    generator = torch.Generator().manual_seed(SEED)
    groups = columns // GROUP
    matrix = QuantizedMatrix(
        codes=torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8),
        scales=torch.rand(groups, rows, generator=generator) * 0.01,
        zeros=torch.full((groups, rows), 8, dtype=torch.int32),
        group_of=torch.arange(columns, dtype=torch.int32) // GROUP,
        error=0.0,
        damping=0.0,
        num_dead=0,
    )
    plain = GptqLinear(matrix, bits=4)
    fast = quickest(plain)
    assert isinstance(fast, FastInt4Linear), "this torch has no int4 product"
    float32 = nn.Linear(columns, rows, bias=False)
    float32.weight.copy_(matrix.dequantized())
    bfloat16 = nn.Linear(columns, rows, bias=False, dtype=torch.bfloat16)
    bfloat16.weight.copy_(matrix.dequantized())
    x = torch.randn(1, columns, generator=generator)
    calls: dict[str, tuple[nn.Module, Tensor]] = {
        "int4": (fast, x),
        "float32": (float32, x),
        "bfloat16": (bfloat16, x.bfloat16()),
        "int4, decoded at each call": (plain, x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(NUM_CALLS):
        for name, (layer, given) in calls.items():
            if number >= 20 and name.endswith("each call"):
                continue  # slow, and known well enough
            started = time.perf_counter()
            layer(given)
            seconds[name].append(time.perf_counter() - started)
    took = {name: sorted(values)[len(values) // 5] for name, values in seconds.items()}
    return {
        "float32 / int4": took["float32"] / took["int4"],
        "bfloat16 / int4": took["bfloat16"] / took["int4"],
        **{f"{name}, ms": 1000 * value for name, value in took.items()},
    }


if __name__ == "__main__":
    main()
