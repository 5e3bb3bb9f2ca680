"""The memory of a long prompt: a small random network reads 8k, 16k and 32k tokens in pieces.

`python -m benchmarks.cloud_long FOLDER TOKENS` measures one length in a process of its own: its
anonymous resident memory at the peak, beyond that of weights and libraries, and the seconds to the
first token; beside it what `nearfar cloud memory` had predicted.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.cloud_models import random_model
from cloud.engine.engine import CloudEngine
from engine.torch.memory import plan_memory
from engine.torch.options import EngineOptions
from engine.torch.process_memory import resident_bytes, watch_memory
from offload.messages import Request, Sampling

_LENGTHS = (8192, 16384, 32768)
_ANSWER_LEN = 2


async def long_context(*, quick: bool) -> dict[str, Any]:
    """Return the peak of the longest prompt over that of the shortest, as a share of linear."""
    lengths = _LENGTHS[:2] if quick else _LENGTHS
    with tempfile.TemporaryDirectory() as place:
        folder = random_model(Path(place), "random-long").folder
        told = {length: await asyncio.to_thread(_apart, folder, length) for length in lengths}
    shortest, longest = told[lengths[0]], told[lengths[-1]]
    grown = longest["peak_bytes"] / shortest["peak_bytes"]
    linear = grown * lengths[0] / lengths[-1]
    misses = [abs(each["peak_over_predicted"] - 1) for each in told.values()]
    return {
        "model": "random-long",
        "ratio_to_linear": round(linear, 3),
        "goal": "at most 1.05 of linear growth, and within 0.05 of what was predicted",
        "met": linear <= 1.05 and max(misses) <= 0.05,
        "tokens": {str(length): each for length, each in told.items()},
    }


def measured(folder: Path, num_tokens: int) -> dict[str, Any]:
    """Read a prompt of so many tokens in this process, which has read none before."""
    options = EngineOptions(
        device="cpu",
        max_model_len=num_tokens + _ANSWER_LEN,
        max_num_seqs=1,
        response_cache_size=0,
    )
    plan = plan_memory(folder, options)
    torch.randn(64, 64) @ torch.randn(64, 64)  # what the libraries keep for themselves
    before = resident_bytes()
    engine = CloudEngine(folder, options=options)
    with watch_memory() as seen:
        took_s = asyncio.run(_first_token_s(engine, num_tokens))
    peak = max(seen) - before - plan.weight_bytes
    predicted = plan.kv_bytes + plan.activation_bytes
    return {
        "peak_bytes": peak,
        "peak_over_predicted": round(peak / predicted, 3),
        "predicted_bytes": {"cache": plan.kv_bytes, "step": plan.activation_bytes},
        "first_token_s": round(took_s, 2),
    }


def _apart(folder: Path, num_tokens: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.cloud_long", str(folder), str(num_tokens)]
    done = subprocess.run(command, capture_output=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


async def _first_token_s(engine: CloudEngine, num_tokens: int) -> float:
    prompt = tuple(at % 300 + 1 for at in range(num_tokens))
    request = Request(prompt_token_ids=prompt, sampling=Sampling(max_tokens=_ANSWER_LEN))
    began = time.perf_counter()
    took_s = 0.0
    async for _ in engine.generate(request):
        took_s = took_s or time.perf_counter() - began
    await engine.aclose()
    return took_s


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), int(sys.argv[2]))))
