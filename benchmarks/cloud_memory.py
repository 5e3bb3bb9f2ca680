"""The prediction of `nearfar cloud memory`, beside what a process of its own then holds.

Anonymous resident memory above that of the imported libraries: after loading, and at the peak of
eight prompts read at once. `python -m benchmarks.cloud_memory FOLDER` measures one model.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.cloud_models import BenchModel
from cloud.engine.engine import CloudEngine
from engine.torch.memory import plan_memory
from engine.torch.options import EngineOptions
from engine.torch.process_memory import resident_bytes, watch_memory
from offload.messages import Request, Sampling

_PROMPTS, _PROMPT_LEN, _CONTEXT = 8, 500, 512
_OPTIONS = EngineOptions(
    device="cpu",
    max_model_len=_CONTEXT,
    max_num_seqs=_PROMPTS,
    max_num_batched_tokens=1024,
    response_cache_size=0,
)


async def memory(model: BenchModel, *, quick: bool) -> dict[str, Any]:
    """Measure in a fresh process, whose heap nobody has used before."""
    command = [sys.executable, "-m", "benchmarks.cloud_memory", str(model.folder)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
    return {"model": model.name, **json.loads(done.stdout)}


def main() -> None:
    """Print one model's figures as JSON."""
    folder = Path(sys.argv[1])
    torch.randn(64, 64) @ torch.randn(64, 64)  # what the libraries keep for themselves
    plan = plan_memory(folder, _OPTIONS)
    loaded, peak = asyncio.run(_measured(folder, resident_bytes()))
    kept = plan.weight_bytes + plan.kv_bytes
    print(
        json.dumps(
            {
                "loaded_over_predicted": round(loaded / kept, 3),
                "peak_over_predicted": round(peak / plan.total_bytes, 3),
                "goal": "within 0.05 of 1",
                "met": abs(loaded / kept - 1) <= 0.05 and abs(peak / plan.total_bytes - 1) <= 0.05,
                "predicted_bytes": {"loaded": kept, "peak": plan.total_bytes},
                "resident_bytes": {"loaded": loaded, "peak": peak},
            }
        )
    )


async def _measured(folder: Path, before: int) -> tuple[int, int]:
    """Return the bytes held after loading and, at most, while prompts are answered."""
    engine = CloudEngine(folder, options=_OPTIONS)
    loaded = resident_bytes()
    with watch_memory() as seen:
        await asyncio.gather(*(_answer(engine, first) for first in range(_PROMPTS)))
    await engine.aclose()
    return loaded - before, max(seen) - before


async def _answer(engine: CloudEngine, first: int) -> None:
    prompt = tuple((7 * first + at) % 300 + 1 for at in range(_PROMPT_LEN))
    request = Request(prompt_token_ids=prompt, sampling=Sampling(max_tokens=12))
    async for _ in engine.generate(request):
        pass


if __name__ == "__main__":
    main()
