"""Seconds to the first word of streams that stay near: `auto` beside `auto-local`, turn by turn."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from statistics import median
from typing import Any

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.engine import AnswerStream, Engine, settling
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.hybrid.settled import settled
from offload.messages import Delta, Finish, Message, ModelCard, Request, Sampling
from offload.policy.serving.first_day import first_day

PROMPTS = Path(__file__).with_name("policy_real") / "everyday.jsonl"


class FarWord:
    """A far side that says one word, for streams that do not stay near: they are not counted."""

    def card(self) -> ModelCard:
        return ModelCard(
            name="far",
            architecture="none",
            runtime="none",
            num_parameters=0,
            quantization="none",
            size_bytes=0,
            max_model_len=4096,
        )

    async def generate(self, request: Request) -> AnswerStream:
        yield Delta(text="far", source="cloud")
        yield Finish(reason="stop")

    async def aclose(self) -> None:
        """Nothing to free."""


def first_word_seconds(model: Path, num_prompts: int) -> dict[str, Any]:
    """Return medians over the prompts whose answers stay near, and the ratio of each pair's."""
    return asyncio.run(_measured(model, num_prompts))


async def _measured(model: Path, num_prompts: int) -> dict[str, Any]:
    near = LlamaEngine(model, options=LlamaOptions(max_model_len=2048))
    hybrid = Hybrid(near, FarWord(), options=HybridOptions(rule=first_day()))
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line)["question"] for line in lines][:: max(1, 100 // num_prompts)]
    pairs: list[tuple[float, float, float]] = []
    num_far = 0
    for number, prompt in enumerate(prompts):
        ways: list[tuple[str, Engine]] = [("auto", hybrid), ("auto-local", hybrid)]
        took: dict[str, tuple[float, float, str]] = {}
        for name, engine in ways if number % 2 else ways[::-1]:
            request = Request(
                messages=(Message(role="user", content=prompt),),
                sampling=Sampling(max_tokens=48),
                model=name,
                cache_salt=f"{number} {name}",  # neither finds the other's prompt read
            )
            took[name] = await _timed(
                settled(settling(engine, request), may_replace=hybrid.may_replace(request)),
                time.monotonic,
            )
        if took["auto"][2] == "edge":
            pairs.append((took["auto"][0], took["auto-local"][0], took["auto"][1]))
        else:
            num_far += 1
    await hybrid.aclose()
    return {
        "model": model.name,
        "prompts": len(prompts),
        "went_far": num_far,
        "first_word_s_auto": median(each[0] for each in pairs),
        "first_word_s_auto_local": median(each[1] for each in pairs),
        "whole_answer_s_auto": median(each[2] for each in pairs),
        "ratio_of_medians": median(e[0] for e in pairs) / median(e[1] for e in pairs),
        "median_ratio": median(each[0] / each[1] for each in pairs),
        "median_ratio_if_held": median(each[2] / each[1] for each in pairs),
    }


async def _timed(stream: AnswerStream, clock: Callable[[], float]) -> tuple[float, float, str]:
    """Return the seconds to the first word and to the end, and who answered."""
    began, first, side = clock(), 0.0, ""
    async with aclosing(stream) as items:
        async for item in items:
            if isinstance(item, Delta) and item.text and not first:
                first = clock() - began
            if isinstance(item, Finish) and item.route is not None:
                side = item.route.served_by
    return first, clock() - began, side
