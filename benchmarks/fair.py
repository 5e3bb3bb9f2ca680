"""How long a newcomer waits for its first token while one other device asks for all there is.

    python -m benchmarks.fair

Both in one run: the newcomer alone, and then beside NUM_REQUESTS long requests of another device.
The figure is the wait in units of what the newcomer's whole answer takes alone; at most 2 is
wanted. A step in which 128 others are written takes as long as it takes; `target_step_s` bounds
what is read in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import time
from pathlib import Path

from cloud.engine.engine import CloudEngine
from cloud.engine.options import EngineOptions
from offload.asker import asked_by
from offload.messages import Delta, Message, Request, Sampling
from offload.pair import CLOUD_MODEL

NUM_REQUESTS = 1000
NUM_TRIALS = 3
QUESTION = Message(role="user", content="Tom has 3 apples and buys 4 more. How many has he?")
NEWCOMER = Request(messages=(QUESTION,), sampling=Sampling(max_tokens=64))


def long_request(number: int) -> Request:
    """Return one of the other device's requests: a prompt of its own and a long answer."""
    prompt = f"Number {number}. " + "Ann counts 1 2 3 4 5 6 7 8 9. " * 8
    return Request(prompt=prompt, sampling=Sampling(max_tokens=200, temperature=1.0, seed=number))


async def ask(engine: CloudEngine, request: Request, device: str) -> tuple[float, float]:
    """Return the seconds to the first token and to the end."""
    began_s, first_s = time.perf_counter(), 0.0
    with asked_by(device):
        async for item in engine.generate(request):
            if isinstance(item, Delta) and not first_s:
                first_s = time.perf_counter() - began_s
    return first_s, time.perf_counter() - began_s


async def measure(target_step_s: float) -> dict[str, object]:
    """Return the newcomer's figures, alone and beside the crowd."""
    options = EngineOptions(
        device="cpu",
        response_cache_size=0,
        enable_prefix_caching=False,
        target_step_s=target_step_s,
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
    service_s = statistics.median(whole for _, whole in alone)
    firsts = [first for first, _ in beside]
    return {
        "service_s_alone": round(service_s, 4),
        "first_token_s_beside": [round(each, 4) for each in firsts],
        "worst_wait_in_service_times": round(max(firsts) / service_s, 2),
        "median_wait_in_service_times": round(statistics.median(firsts) / service_s, 2),
        "num_requests_of_the_other": NUM_REQUESTS,
        "still_waiting_at_the_end": still_waiting,
        "target_step_s": target_step_s,
        "max_num_seqs": options.max_num_seqs,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


if __name__ == "__main__":
    found = [asyncio.run(measure(target_step_s)) for target_step_s in (0.0, 0.05)]
    print(json.dumps(found, indent=2))
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
