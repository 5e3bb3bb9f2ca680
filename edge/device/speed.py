"""How quickly a model can write here: predicted from the memory, and measured.

Each token reads every weight once, so the memory's bandwidth bounds the tokens per second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from offload.messages import Delta, Finish, Request, Sampling

_BLOCK_BYTES = 64 << 20  # larger than the caches of most processors
_PASSES = 5
_WARM_TOKENS, _TOKENS = 8, 48


def memory_bandwidth() -> float:
    """Return the bytes per second of one core's copies, reads and writes together; best of 5."""
    import numpy as np

    source = np.ones(_BLOCK_BYTES, dtype=np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(_PASSES):
        began = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - began)
    return 2 * _BLOCK_BYTES / best


def predicted_tokens_per_s(size_bytes: int, bandwidth: float) -> float:
    """Return the bound that memory sets; arithmetic may set a lower one."""
    return bandwidth / max(1, size_bytes)


def measured_tokens_per_s(path: Path, num_threads: int) -> float:
    """Return how quickly a GGUF model writes with so many threads; 0 is the governor's choice.

    Raises CheckpointError.
    """
    from edge.llama.runtime import LlamaEngine, LlamaOptions

    engine = LlamaEngine(path, options=LlamaOptions(num_threads=num_threads))
    try:
        _rate(engine.answer(_request(_WARM_TOKENS)))
        return _rate(engine.answer(_request(_TOKENS)))
    finally:
        engine.close()


def _request(max_tokens: int) -> Request:
    return Request(
        prompt="One, two, three, four, five, six,",
        sampling=Sampling(max_tokens=max_tokens, temperature=1.0, seed=1),
    )


def _rate(answer: Iterator[Delta | Finish]) -> float:
    times = [time.perf_counter() for item in answer if isinstance(item, Delta)]
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
