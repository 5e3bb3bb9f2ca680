"""The torch runtime of the edge: four answers written together, against one after another.

    python -m benchmarks.small_gpu_batch WORK --json OUT

WORK is a folder for the models, which are made there if they are not: random weights in layers of
the shape of Qwen2.5-0.5B, eight of its 24 and with the embedded model's small vocabulary, in
float32 and as 4-bit GPTQ. Both ways take turns in one run, through the engine, prompts included.
The embedded cloud model stands for the other end, where a step is all overhead. For a quiet
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.network import Network
from benchmarks.quantize import processor
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from offload.messages import Delta, Request, Sampling
from offload.pair import CLOUD_MODEL
from quantize.gptq import QuantizedMatrix
from quantize.gptq_format import pack

SEED, GROUP = 5, 128
NUM_REQUESTS, PROMPT_LEN, ANSWER_LEN, NUM_RUNS = 4, 128, 48, 3
SHAPE = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 8,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


def main() -> None:
    """Run it, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("work", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prepare", action="store_true", help="only make the models")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folders = {
        "float32": made(options.work / "float32", bits=32),
        "gptq int4": made(options.work / "int4", bits=4),
        "embedded cloud model, float32": CLOUD_MODEL,
    }
    if options.prepare:
        return
    document = {
        "batch": {name: measured(folder, options.threads) for name, folder in folders.items()},
        "requests": NUM_REQUESTS,
        "prompt_tokens": PROMPT_LEN,
        "answer_tokens": ANSWER_LEN,
        "runs": NUM_RUNS,
        "seed": SEED,
        "threads": options.threads,
        "hardware": {"processor": processor(), "system": platform.system()},
        "versions": {"torch": version("torch")},
    }
    text = json.dumps(document, indent=1) + "\n"
    print(text)
    if options.json:
        options.json.write_text(text, encoding="utf-8")


def made(folder: Path, *, bits: int) -> Path:
    """Write a model of random weights, unless it is there."""
    if (folder / "model.safetensors").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CLOUD_MODEL / name, folder)
    raw = SHAPE | {"vocab_size": NetworkConfig.load(CLOUD_MODEL).vocab_size, "eos_token_id": 0}
    if bits == 4:
        raw["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": GROUP}
    (folder / "config.json").write_text(json.dumps(raw))
    generator = torch.Generator().manual_seed(SEED)
    with torch.device("meta"):
        shapes = {
            name: p.shape for name, p in Network(NetworkConfig.load(folder)).named_parameters()
        }
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        tensors |= _random(f"model.{name}", shape, generator, bits)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _random(
    name: str, shape: torch.Size, generator: torch.Generator, bits: int
) -> dict[str, Tensor]:
    if name.endswith("norm.weight"):
        return {name: torch.ones(shape)}
    if bits == 4 and "_proj.weight" in name:
        rows, columns = shape
        matrix = QuantizedMatrix(
            codes=torch.randint(0, 16, (rows, columns), generator=generator).to(torch.uint8),
            scales=torch.full((columns // GROUP, rows), 0.005),
            zeros=torch.full((columns // GROUP, rows), 8, dtype=torch.int32),
            group_of=torch.arange(columns, dtype=torch.int32) // GROUP,
            error=0.0,
            damping=0.0,
            num_dead=0,
        )
        stem = name.removesuffix(".weight")
        return {f"{stem}.{part}": tensor for part, tensor in pack(matrix, 4).items()}
    return {name: torch.randn(shape, generator=generator) * 0.03}


def measured(folder: Path, threads: int) -> dict[str, float]:
    """Return tokens per second of both ways; the median of runs that take turns."""
    options = TorchOptions(device="cpu", num_threads=threads, max_num_seqs=NUM_REQUESTS)
    engine = TorchEdgeEngine(folder, options=options)
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    for run in range(NUM_RUNS + 1):
        for way in seconds:
            took = asyncio.run(_timed(engine, way, run))
            if run:  # the first warms up
                seconds[way].append(took)
    engine.close()
    rates = {
        way: NUM_REQUESTS * ANSWER_LEN / statistics.median(all_s) for way, all_s in seconds.items()
    }
    return {
        "together / one after another": rates["together"] / rates["alone"],
        "together, tokens/s": rates["together"],
        "one after another, tokens/s": rates["alone"],
    }


async def _timed(engine: TorchEdgeEngine, way: str, run: int) -> float:
    vocab = engine.card().vocab_size
    generator = torch.Generator().manual_seed(SEED + 100 * run + (way == "alone"))
    prompts = torch.randint(4, vocab, (NUM_REQUESTS, PROMPT_LEN), generator=generator).tolist()
    started = time.perf_counter()
    if way == "together":
        await asyncio.gather(*(_read(engine, prompt) for prompt in prompts))
    else:
        for prompt in prompts:
            await _read(engine, prompt)
    return time.perf_counter() - started


async def _read(engine: TorchEdgeEngine, prompt: list[int]) -> None:
    sampling = Sampling(max_tokens=ANSWER_LEN, logit_bias=dict.fromkeys(range(4), -100.0))
    request: Any = Request(prompt_token_ids=tuple(prompt), sampling=sampling)
    items = [item async for item in engine.generate(request)]
    count = sum(len(item.token_ids) for item in items if isinstance(item, Delta))
    assert count == ANSWER_LEN, f"{count} tokens came instead of {ANSWER_LEN}"


if __name__ == "__main__":
    main()
