"""The two sides of benchmarks/cloud.py: our engine, and transformers, with the same greedy job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from backbone.tokenizer import Tokenizer
from cloud.engine.engine import CloudEngine
from engine.torch.options import EngineOptions
from offload.messages import Delta, Request, Sampling


@dataclass(frozen=True)
class Job:
    """One prompt, and how many tokens are wanted."""

    prompt: str
    num_tokens: int


@dataclass(frozen=True)
class JobResult:
    """What came of a job; seconds count from when it was sent."""

    tokens: tuple[int, ...]
    first_s: float
    last_s: float


@asynccontextmanager
async def our_engine(folder: Path, **options: Any) -> AsyncIterator[CloudEngine]:
    """Load our engine, warm it up, and close it behind."""
    # Rounds repeat their questions, which must be answered anew each time.
    engine = CloudEngine(folder, options=EngineOptions(**{"response_cache_size": 0, **options}))
    try:
        await ours(engine, Job("warm up", 8))
        yield engine
    finally:
        await engine.aclose()


async def ours(engine: CloudEngine, job: Job) -> JobResult:
    """Answer one job."""
    began = time.perf_counter()
    tokens: list[int] = []
    first_s = 0.0
    request = Request(prompt=job.prompt, sampling=Sampling(max_tokens=job.num_tokens))
    async for item in engine.generate(request):
        if isinstance(item, Delta) and item.token_ids:
            first_s = first_s or time.perf_counter() - began
            tokens += item.token_ids
    return JobResult(tuple(tokens), first_s, time.perf_counter() - began)


async def ours_together(engine: CloudEngine, jobs: Sequence[Job]) -> list[JobResult]:
    """Answer all jobs at once."""
    return await asyncio.gather(*(ours(engine, job) for job in jobs))


Batched = Callable[[Sequence[Job]], "list[tuple[int, ...]]"]


class Theirs:
    """transformers on the same folder, as fast as its own options allow."""

    def __init__(self, folder: Path, device: str, dtype: torch.dtype) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = model.to(device).eval()
        self._device = device
        self._tokenizer = Tokenizer(folder)

    def one(self, job: Job) -> tuple[int, ...]:
        """Generate for one prompt."""
        return self.padded([job])[0]

    def padded(self, jobs: Sequence[Job]) -> list[tuple[int, ...]]:
        """Generate for all prompts in one batch, padded on the left; it lasts as its longest."""
        prompts = [self._tokenizer.encode(job.prompt) for job in jobs]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(each)) + each for each in prompts])
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
        with torch.inference_mode():
            out = self.model.generate(
                ids.to(self._device),
                attention_mask=mask.to(self._device),
                max_new_tokens=max(job.num_tokens for job in jobs),
                do_sample=False,
                pad_token_id=0,
            )
        made = out[:, width:].tolist()
        return [tuple(row[: job.num_tokens]) for row, job in zip(made, jobs, strict=True)]

    def margin(self, job: Job, expected: Sequence[int], found: Sequence[int]) -> float:
        """Return by how many nats it prefers its own token where other tokens first differ."""
        same = next(i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
        known = [*self._tokenizer.encode(job.prompt), *expected[:same]]
        with torch.inference_mode():
            logits = self.model(torch.tensor([known], device=self._device)).logits[0, -1].float()
        return float(logits[expected[same]] - logits[found[same]])

    @contextmanager
    def continuous(self, num_tokens: int) -> Iterator[Batched]:
        """Offer transformers' continuous batching, its manager started and warm.

        Its cache is sized for `num_tokens`: by default it takes most of a machine's memory.
        """
        config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        pages = ContinuousBatchingConfig(num_blocks=2 + num_tokens // 256, max_batch_tokens=2048)
        with self.model.continuous_batching_context_manager(
            generation_config=config, continuous_batching_config=pages, warmup=True
        ) as manager:
            yield partial(self._continuous, manager)

    def _continuous(self, manager: Any, jobs: Sequence[Job]) -> list[tuple[int, ...]]:
        names = [
            manager.add_request(self._tokenizer.encode(job.prompt), max_new_tokens=job.num_tokens)
            for job in jobs
        ]
        made: dict[str, tuple[int, ...]] = {}
        while len(made) < len(jobs):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                made[result.request_id] = tuple(result.generated_tokens)
            assert result is not None or manager.is_running(), "generate_batch broke down"
        return [made[name] for name in names]
