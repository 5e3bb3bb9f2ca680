"""How long a newcomer waits for its first token while one other device asks for all there is.

    python -m benchmarks.fair

Both in one run: the newcomer alone, and then beside NUM_REQUESTS long requests of another device.
The figure is the wait in units of what the newcomer's whole answer takes alone; at most 2 is
wanted. It is told by the clock and by this process's CPU time, which others on the machine change
less. What counts is how long a step takes: `max_num_batched_tokens` bounds what is read in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.asker import asked_by
from offload.messages import Delta, Message, Request, Sampling
from offload.pair import CLOUD_MODEL

NUM_REQUESTS = 1000
NUM_TRIALS = 5
QUESTION = Message(role="user", content="Tom has 3 apples and buys 4 more. How many has he?")
NEWCOMER = Request(messages=(QUESTION,), sampling=Sampling(max_tokens=64))


def long_request(number: int) -> Request:
    """Return one of the other device's requests: a prompt of its own and a long answer."""
    prompt = f"Number {number}. " + "Ann counts 1 2 3 4 5 6 7 8 9. " * 8
    return Request(prompt=prompt, sampling=Sampling(max_tokens=200, temperature=1.0, seed=number))


@dataclass(frozen=True)
class Wait:
    """The seconds to the first token and to the end, by the clock and by the CPU."""

    first_s: float
    whole_s: float
    first_cpu_s: float
    whole_cpu_s: float


async def ask(engine: CloudEngine, request: Request, device: str) -> Wait:
    """Ask once, and return how long it took."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    first_s = first_cpu_s = 0.0
    with asked_by(device):
        async for item in engine.generate(request):
            if isinstance(item, Delta) and not first_s:
                first_s = time.perf_counter() - began_s
                first_cpu_s = time.process_time() - began_cpu_s
    whole_s, whole_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return Wait(first_s, whole_s, first_cpu_s, whole_cpu_s)


async def measure(num_step_tokens: int) -> dict[str, object]:
    """Return the newcomer's figures, alone and beside the crowd; 0 tokens are the default."""
    options = EngineOptions(
        device="cpu",
        response_cache_size=0,
        enable_prefix_caching=False,
        max_num_batched_tokens=num_step_tokens,
    )
    engine = CloudEngine(CLOUD_MODEL, options=options)
    await ask(engine, NEWCOMER, "warm")
    alone = [await ask(engine, NEWCOMER, "b") for _ in range(NUM_TRIALS)]
    crowd = [asyncio.create_task(ask(engine, long_request(n), "a")) for n in range(NUM_REQUESTS)]
    while engine.report().num_waiting < NUM_REQUESTS // 2:
        await asyncio.sleep(0.1)
    beside = [await ask(engine, NEWCOMER, "b") for _ in range(NUM_TRIALS)]
    still_waiting = engine.report().num_waiting
    for each in crowd:
        each.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    await engine.aclose()
    service_s = statistics.median(each.whole_s for each in alone)
    service_cpu_s = statistics.median(each.whole_cpu_s for each in alone)
    waits = [each.first_s / service_s for each in beside]
    cpu_waits = [each.first_cpu_s / service_cpu_s for each in beside]
    return {
        "service_s_alone": round(service_s, 4),
        "service_cpu_s_alone": round(service_cpu_s, 4),
        "waits_in_service_times": [round(each, 2) for each in waits],
        "waits_in_service_times_by_cpu": [round(each, 2) for each in cpu_waits],
        "worst_wait_in_service_times": round(max(waits), 2),
        "median_wait_in_service_times": round(statistics.median(waits), 2),
        "num_requests_of_the_other": NUM_REQUESTS,
        "still_waiting_at_the_end": still_waiting,
        "max_num_batched_tokens": options.step_tokens(),
        "max_num_seqs": options.max_num_seqs,
        "load_average": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


if __name__ == "__main__":
    found = [asyncio.run(measure(num_step_tokens)) for num_step_tokens in (0, 2048)]
    print(json.dumps(found, indent=2))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
