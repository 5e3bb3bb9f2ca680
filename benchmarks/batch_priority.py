"""What a reader notices of batch work: alone, beside it, and beside as many equals.

    python -m benchmarks.batch_priority [--model MODEL.gguf]

The same question is asked in turn by a reader who is alone, beside NUM_BATCH requests of batch
priority, and beside as many of another device that are read too. Ratios are to the first; those of
CPU time are changed less by whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.asker import asked_by
from offload.messages import Delta, Message, Request, Sampling
from offload.pair import CLOUD_MODEL
from offload.priority import Priority, prioritized

NUM_BATCH, NUM_TRIALS, NUM_TOKENS = 32, 5, 24
SIDES: dict[str, Priority | None] = {"alone": None, "batch": "batch", "equals": "interactive"}


def reader(number: int) -> Request:
    """Return what the reader asks; no two trials have a prefix in the cache."""
    question = f"{number}: Tom has 3 apples and buys 4 more. How many has he?"
    sampling = Sampling(max_tokens=NUM_TOKENS, ignore_eos=True)
    return Request(messages=(Message(role="user", content=question),), sampling=sampling)


def other(number: int) -> Request:
    """Return one of the other requests: a longer prompt, and an answer that goes on."""
    prompt = f"Number {number}. " + "Ann counts 1 2 3 4 5 6 7 8 9. " * 6
    sampling = Sampling(max_tokens=200, temperature=1.0, seed=number, ignore_eos=True)
    return Request(prompt=prompt, sampling=sampling)


class Others:
    """Requests that are always there while the block lasts, and how many tokens they wrote."""

    def __init__(self, engine: CloudEngine) -> None:
        self._engine, self.num_tokens = engine, 0

    @asynccontextmanager
    async def running(self, priority: Priority | None) -> AsyncIterator[None]:
        count = NUM_BATCH if priority else 0
        with asked_by("others"), prioritized(priority or "interactive"):
            tasks = [asyncio.create_task(self._keep_asking(n)) for n in range(count)]
        while self._engine.report().num_running + self._engine.report().num_batch < count:
            await asyncio.sleep(0.05)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_asking(self, number: int) -> None:
        while True:
            async for item in self._engine.generate(other(number)):
                self.num_tokens += isinstance(item, Delta)
            number += NUM_BATCH


async def ask(engine: CloudEngine, number: int) -> dict[str, float]:
    """Ask once as a reader, and return how long it took."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    first_s = first_cpu_s = 0.0
    with asked_by("reader"):
        async for item in engine.generate(reader(number)):
            if isinstance(item, Delta) and not first_s:
                first_s, first_cpu_s = (
                    time.perf_counter() - began_s,
                    time.process_time() - began_cpu_s,
                )
    return {
        "first_s": first_s,
        "whole_s": time.perf_counter() - began_s,
        "first_cpu_s": first_cpu_s,
        "whole_cpu_s": time.process_time() - began_cpu_s,
    }


async def measure(model: Path) -> dict[str, Any]:
    """Return each side's medians, and the ratios to the reader alone."""
    engine = CloudEngine(
        model, options=EngineOptions(device="cpu", response_cache_size=0, max_model_len=512)
    )
    others, found = Others(engine), {name: [] for name in SIDES}  # type: ignore[var-annotated]
    await ask(engine, 0)
    rests = []
    for trial in range(NUM_TRIALS):
        for side, priority in SIDES.items():
            async with others.running(priority):
                before = others.num_tokens
                found[side].append(await ask(engine, 100 * trial + len(found[side]) + 1))
                if side == "batch":
                    rests.append(others.num_tokens - before)
    await engine.aclose()
    medians = {
        side: {name: statistics.median(each[name] for each in rows) for name in rows[0]}
        for side, rows in found.items()
    }
    return {
        "ratios_to_alone": {
            side: {n: round(medians[side][n] / medians["alone"][n], 2) for n in medians["alone"]}
            for side in ("batch", "equals")
        },
        "medians": {s: {n: round(v, 4) for n, v in row.items()} for s, row in medians.items()},
        "batch_tokens_beside_a_reader": rests,
        "choice": engine.chosen(),
    }


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=CLOUD_MODEL)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    chosen = parser.parse_args()
    document = {
        "model": chosen.model.name,
        "num_batch": NUM_BATCH,
        "num_trials": NUM_TRIALS,
        "load_average": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        **asyncio.run(measure(chosen.model)),
    }
    chosen.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
