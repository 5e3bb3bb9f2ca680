"""The torch runtime's threads under four loads: governed, against every fixed number.

    python -m benchmarks.small_gpu_threads WORK --json OUT

WORK is a folder for the model of benchmarks/small_gpu_batch.py (eight layers of the shape of
Qwen2.5-0.5B, 4-bit GPTQ), made there if it is not. Neighbours are processes that keep a core each
busy, for good or three seconds in six. All ways take turns under one load. For a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.edge_sides import busy_cores, by_turns
from benchmarks.edge_speed import LOADS
from benchmarks.quantize import processor
from benchmarks.small_gpu_batch import SEED, made
from edge.device.cpu_load import num_usable_cores
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from offload.messages import Delta, Request, Sampling

PROMPT_LEN, NUM_TURNS = 16, 1


def main() -> None:
    """Run it, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("work", type=Path)
    parser.add_argument("--tokens", type=int, default=192, help="of each answer")
    parser.add_argument("--prepare", action="store_true", help="only make the model")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = made(options.work / "int4", bits=4)
    if options.prepare:
        return
    loads = {name: _under(folder, load, options.tokens) for name, load in LOADS.items()}
    document = {
        "ratio": min(load["governed / best fixed"] for load in loads.values()),
        "loads": loads,
        "answer_tokens": options.tokens,
        "turns": NUM_TURNS,
        "seed": SEED,
        "hardware": {
            "processor": processor(),
            "system": platform.system(),
            "cores": num_usable_cores(),
        },
        "versions": {"torch": version("torch")},
    }
    text = json.dumps(document, indent=1) + "\n"
    print(text)
    if options.json:
        options.json.write_text(text, encoding="utf-8")


def _under(folder: Path, load: tuple[int, float, float], num_tokens: int) -> dict[str, float]:
    """Return tokens per second of each way under one load."""
    count, on_s, off_s = load
    ways = range(num_usable_cores() + 1)  # 0 is governed
    with busy_cores(count, on_s=on_s, off_s=off_s):
        governed, *fixed = by_turns(
            NUM_TURNS,
            *(lambda n=n: _rate(folder, n, num_tokens) for n in ways),  # type: ignore[misc]
        )
    found = {"governed / best fixed": governed / max(fixed), "governed, tokens/s": governed}
    for threads, rate in zip(ways[1:], fixed, strict=True):
        found[f"{threads} threads, tokens/s"] = rate
    return found


def _rate(folder: Path, num_threads: int, num_tokens: int) -> float:
    """Return decoded tokens per second of one answer, of an engine that was just loaded."""
    engine = TorchEdgeEngine(folder, options=TorchOptions(device="cpu", num_threads=num_threads))
    never_ends: dict[int, float] = dict.fromkeys(range(4), -100.0)
    sampling = Sampling(max_tokens=num_tokens, logit_bias=never_ends)
    prompt = tuple(range(4, 4 + PROMPT_LEN))
    rate = asyncio.run(_timed(engine, Request(prompt_token_ids=prompt, sampling=sampling)))
    engine.close()
    return rate


async def _timed(engine: TorchEdgeEngine, request: Any) -> float:
    first, count = 0.0, 0
    async for item in engine.generate(request):
        if isinstance(item, Delta) and item.token_ids:
            count += 1
            first = first or time.perf_counter()
    return (count - 1) / (time.perf_counter() - first)


if __name__ == "__main__":
    main()
