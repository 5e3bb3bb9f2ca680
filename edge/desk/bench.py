"""How quick the near model is on this device, and what each way of keeping its cache costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec
import psutil

from backbone.causes import cause
from backbone.errors import NearfarError
from edge.desk.models import find_gguf
from edge.desk.near import open_edge
from offload.engine import Engine
from offload.messages import Delta, Finish, Request, Sampling
from offload.places import Places, places
from offload.settings import Settings

MAX_ANSWERS = 16  # a model may end each answer early


class SpeedReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the near model; the memory is this process's at its end."""

    model: str
    quantization: str
    size_bytes: int
    max_model_len: int
    load_s: float
    first_token_s: float  # of the first prompt, from the request on
    prompt_tokens: int
    prefill_tokens_per_s: float
    answer_tokens: int
    decode_tokens_per_s: float
    memory_bytes: int


async def measure_speed(
    settings: Settings, here: Places, *, prompt_tokens: int, answer_tokens: int
) -> SpeedReport:
    """Load the near model and time it on prompts that share no beginning."""
    started = time.perf_counter()
    async with aclosing(open_edge(settings, here)) as engine:
        load_s = time.perf_counter() - started
        return await _measure(engine, load_s, prompt_tokens, answer_tokens)


async def _measure(
    engine: Engine, load_s: float, prompt_tokens: int, answer_tokens: int
) -> SpeedReport:
    card = engine.card()
    prompt_tokens = min(prompt_tokens, card.max_model_len // 2)
    firsts: list[float] = []
    ends: list[Finish] = []
    while sum(end.usage.completion_tokens for end in ends) < answer_tokens:
        if len(ends) == MAX_ANSWERS:
            break
        request = Request(
            prompt=_prompt(len(ends), prompt_tokens),
            sampling=Sampling(max_tokens=min(answer_tokens, card.max_model_len // 2)),
        )
        firsts.append(await _answer(engine, request, ends))
    usages = [end.usage for end in ends]
    # The first token of an answer comes with its prompt, so only the others are decoded.
    decoded = sum(max(0, usage.completion_tokens - 1) for usage in usages)
    return SpeedReport(
        model=card.name,
        quantization=card.quantization,
        size_bytes=card.size_bytes,
        max_model_len=card.max_model_len,
        load_s=load_s,
        first_token_s=firsts[0],
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        prefill_tokens_per_s=_rate(
            sum(usage.prompt_tokens for usage in usages), sum(u.prefill_s for u in usages)
        ),
        answer_tokens=sum(usage.completion_tokens for usage in usages),
        decode_tokens_per_s=_rate(decoded, sum(usage.decode_s for usage in usages)),
        memory_bytes=psutil.Process().memory_info().rss,
    )


async def _answer(engine: Engine, request: Request, ends: list[Finish]) -> float:
    """Read an answer to its end; return the seconds to its first token."""
    started, first = time.perf_counter(), 0.0
    async for item in engine.generate(request):
        if isinstance(item, Finish):
            if item.reason == "error":
                raise NearfarError(item.error or "the model failed")
            ends.append(item)
        elif isinstance(item, Delta) and not first:
            first = time.perf_counter() - started
    return first


def _prompt(number: int, num_tokens: int) -> str:
    # About three characters a token in most tokenizers; what it was is counted, not assumed.
    words = [f"{number * 7919 + index} bottles" for index in range(num_tokens)]
    return " ".join(words)[: 3 * num_tokens]


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def bench_speed(
    settings: Settings, *, prompt_tokens: int, answer_tokens: int, as_json: bool
) -> None:
    """Time the near model and print what was found."""
    report = asyncio.run(
        measure_speed(settings, places(), prompt_tokens=prompt_tokens, answer_tokens=answer_tokens)
    )
    if as_json:
        print(msgspec.json.encode(report).decode())
        return
    print(f"model    {report.model}, {report.quantization}, {report.size_bytes / 1e6:.0f} MB")
    print(f"load     {report.load_s:.2f} s; memory then {report.memory_bytes / 1e6:.0f} MB")
    print(f"first    {report.first_token_s:.3f} s to the first token")
    print(f"prompt   {report.prefill_tokens_per_s:.1f} tokens/s ({report.prompt_tokens} read)")
    print(f"answer   {report.decode_tokens_per_s:.1f} tokens/s ({report.answer_tokens} written)")


def bench_kv(
    settings: Settings, *, kinds: Sequence[str], text: Path | None, num_tokens: int, as_json: bool
) -> None:
    """Compare the ways to store keys and values, and print a row for each."""
    from edge.llama.kv_report import KINDS, kv_report

    path = find_gguf(settings.edge.model, places().models)
    rows = kv_report(
        path,
        names=kinds or KINDS,
        text=_read(text),
        num_tokens=num_tokens,
        num_threads=settings.edge.num_threads,
    )
    if as_json:
        print(msgspec.json.encode({"model": path.name, "rows": rows}).decode())
        return
    print(f"{'type':11} {'B/token':>8} {'smaller':>8} {'perplexity':>11} {'KL':>9} {'tokens/s':>9}")
    for row in rows:
        print(
            f"{row.name:11} {row.bytes_per_token:8.0f} {row.ratio_to_f16:7.2f}x "
            f"{row.perplexity_change:+11.3%} {row.divergence:9.2g} {row.tokens_per_s:9.1f}"
        )


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NearfarError(f"{path} cannot be read ({cause(error)}); give a text file") from None
