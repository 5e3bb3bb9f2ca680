"""Speed of a model here, in tokens per second: predicted from the memory, and measured.

Each token reads every weight once, so the memory's bandwidth bounds the tokens per second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from offload.messages import Finish, Request, Sampling

if TYPE_CHECKING:
    from edge.llama.options import LlamaOptions
    from edge.llama.runtime import LlamaEngine

_BLOCK_BYTES = 64 << 20  # larger than the caches of most processors
_PASSES = 5
_WARM_TOKENS, _TOKENS, _RUNS = 8, 32, 2
_TURN_ANSWER = 128  # tokens of the turn that speeds are weighed by


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


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Speed of a model: tokens per second read and written, after a prompt of so many tokens."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    prompt_tokens: int
    max_model_len: int
    kv_cache_dtype: str

    @property
    def turn_s(self) -> float:
        """Return the seconds of a turn: the prompt read and 128 tokens written at this speed."""
        read, write = self.prefill_tokens_per_s, self.decode_tokens_per_s
        if not read or not write:
            return float("inf")
        return self.prompt_tokens / read + _TURN_ANSWER / write


def measured_speed(path: Path, options: LlamaOptions, prompt_tokens: int) -> Speed:
    """Return the better speed of two runs of a GGUF model. Raises CheckpointError."""
    from edge.llama.runtime import LlamaEngine

    engine = LlamaEngine(path, options=options)
    try:
        longest, kinds = engine.card().max_model_len, str(engine.params.kv_types)
        length = min(prompt_tokens, longest // 2)
        _run(engine, _WARM_TOKENS, 0, _WARM_TOKENS)
        runs = [_run(engine, length, 1 + number, _TOKENS) for number in range(_RUNS)]
    finally:
        engine.close()
    return Speed(
        prefill_tokens_per_s=max(read for read, _, _ in runs),
        decode_tokens_per_s=max(write for _, write, _ in runs),
        prompt_tokens=runs[0][2],
        max_model_len=longest,
        kv_cache_dtype=kinds,
    )


def _run(
    engine: LlamaEngine, num_tokens: int, number: int, answer: int
) -> tuple[float, float, int]:
    """Return tokens read and written per second, and how many the prompt had."""
    # Chosen by chance at a high temperature, so that no model ends its answer at once.
    sampling = Sampling(max_tokens=answer, temperature=2.0, seed=1 + number)
    request = Request(prompt=_fitting(engine, num_tokens, number), sampling=sampling)
    (end,) = (item for item in engine.answer(request) if isinstance(item, Finish))
    usage = end.usage
    read = usage.prompt_tokens - usage.cached_tokens
    # The first token of an answer comes with its prompt.
    written = max(0, usage.completion_tokens - 1)
    return _rate(read, usage.prefill_s), _rate(written, usage.decode_s), usage.prompt_tokens


def _fitting(engine: LlamaEngine, num_tokens: int, number: int) -> str:
    """Return a text of at most so many tokens: some tokenizers spend one on every digit."""
    text = prompt_of(num_tokens, number)
    while (count := len(engine.prompt_tokens(Request(prompt=text)))) > max(1, num_tokens):
        text = text[: len(text) * num_tokens // count]
    return text


def prompt_of(num_tokens: int, number: int = 0) -> str:
    """Return a text of about so many tokens; those of different numbers share no beginning."""
    # About three characters a token in most tokenizers; what it was is counted, not assumed.
    words = [f"{number * 7919 + index} bottles" for index in range(num_tokens)]
    return " ".join(words)[: 3 * num_tokens]


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
