"""Timing of the near model on this device: its prompt, its answer, and what drafts add."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import psutil

from backbone.errors import NearfarError
from edge.device.cpu_load import Disturbance, spread
from edge.near.edge_factory import open_edge
from offload.config.places import Places
from offload.config.settings import Settings
from offload.engine import Engine
from offload.errors import ContextLengthError
from offload.messages import Delta, Finish, Message, ModelCard, Request, Sampling

MAX_ANSWERS = 16  # a model may end each answer early
SHORTEST = 8  # tokens of an answer whose rate says something
ROUNDS = 2  # of each side, by turns, where drafts are compared

QUESTIONS = (
    "Why is the sky blue?",
    "Write a function that adds up the even numbers of a list.",
    "What should I see in a day in Lisbon?",
    "What is 17 + 25?",
    "Explain to a child how a bicycle stays upright.",
    "List the planets, the nearest to the sun first.",
    "Write a short letter that asks for a day off.",
    "How many minutes are three hours?",
)


class DraftReport(msgspec.Struct, frozen=True, kw_only=True):
    """Report on drafts: `ratio` is tokens per second with them over those without."""

    ratio: float
    decode_tokens_per_s_without: float
    model: str  # "" where only earlier text is copied
    max_draft_tokens: int
    proposed: int
    accepted: int
    acceptance: float
    same_answers: bool  # as without: they are verified, so only rounding can part them


class SpeedReport(msgspec.Struct, frozen=True, kw_only=True):
    """Report on the near model's speed; the memory is this process's at its end."""

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
    others_busy_cores: float  # of other programs, on average while it ran
    warning: str | None  # why the seconds are not to be trusted
    samples: dict[str, list[float]]  # of each answer, for `nearfar bench compare`
    drafts: DraftReport | None = None


@dataclass(kw_only=True)
class TimedRuns:
    """Timed runs of the model with one setting."""

    load_s: float = 0.0
    firsts: list[float] = field(default_factory=list)
    ends: list[Finish] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    proposed: int = 0
    accepted: int = 0

    def rates(self) -> list[float]:
        """Return the decoded tokens per second of each answer that is long enough to tell."""
        long = (e.usage for e in self.ends if e.usage.completion_tokens > SHORTEST)
        return [_rate(usage.completion_tokens - 1, usage.decode_s) for usage in long]

    def decode_rate(self) -> float:
        # The first token of an answer comes with its prompt, so only the others are decoded.
        decoded = sum(max(0, end.usage.completion_tokens - 1) for end in self.ends)
        return _rate(decoded, sum(end.usage.decode_s for end in self.ends))


async def measure_speed(
    settings: Settings, here: Places, *, prompt_tokens: int, answer_tokens: int
) -> SpeedReport:
    """Load the near model and time it on prompts that share no beginning.

    Where drafts are set up, it is timed on ordinary questions, with them and without by turns.
    """
    watch, side = Disturbance(), TimedRuns()
    edge = settings.edge
    plain = replace(edge, draft_model="", max_draft_tokens=0)
    if not edge.draft_model and edge.max_draft_tokens <= 0:
        bare = replace(settings, edge=plain)
        card = await _run(bare, here, side, answer_tokens, _Numbers(prompt_tokens))
        return _report(card, side, watch, spread(side.rates()))
    without = TimedRuns()
    rounds: list[float] = []
    for _ in range(ROUNDS):
        await _run(replace(settings, edge=plain), here, without, answer_tokens, _question)
        card = await _run(settings, here, side, answer_tokens, _question)
        rounds.append(side.decode_rate() / (without.decode_rate() or 1.0))
    return _report(card, side, watch, spread(rounds), _drafts(settings, side, without))


async def _run(
    settings: Settings,
    here: Places,
    side: TimedRuns,
    answer_tokens: int,
    prompt: Callable[[int, ModelCard], Request],
) -> ModelCard:
    """Load the model, read answers until there are enough tokens, and add them to the side."""
    started = time.perf_counter()
    async with aclosing(open_edge(settings, here)) as engine:
        side.load_s = side.load_s or time.perf_counter() - started
        card, count, wanted = engine.card(), 0, 0
        while wanted < answer_tokens and count < MAX_ANSWERS:
            request = prompt(count, card)
            max_tokens = min(answer_tokens, card.max_model_len // 2)
            request = msgspec.structs.replace(request, sampling=Sampling(max_tokens=max_tokens))
            try:
                await _answer(engine, request, side)
            except ContextLengthError as error:
                if not isinstance(prompt, _Numbers):
                    raise
                prompt.shorten(error)
                continue
            wanted += side.ends[-1].usage.completion_tokens
            count += 1
        if (draft_stats := getattr(engine, "draft_stats", None)) is not None:
            side.proposed, side.accepted = (
                side.proposed + draft_stats.proposed,
                side.accepted + draft_stats.accepted,
            )
    return card


async def _answer(engine: Engine, request: Request, side: TimedRuns) -> None:
    started, first, text = time.perf_counter(), 0.0, ""
    async for item in engine.generate(request):
        if isinstance(item, Finish):
            if item.reason == "error":
                raise NearfarError(item.error or "the model failed")
            side.ends.append(item)
        elif isinstance(item, Delta):
            first = first or time.perf_counter() - started
            text += item.text
    side.firsts.append(first)
    side.texts.append(text)


class _Numbers:
    """Prompt maker: about so many tokens each, no two of which begin alike."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._per_token = 3.0  # characters, in most tokenizers; what it was is counted

    def __call__(self, number: int, card: ModelCard) -> Request:
        size = min(self._num_tokens, card.max_model_len // 2)
        words = [f"{number * 7919 + index} bottles" for index in range(size)]
        return Request(prompt=" ".join(words)[: max(1, int(self._per_token * size))])

    def shorten(self, error: ContextLengthError) -> None:
        """Take this tokenizer's short tokens into account; raises where that cannot help."""
        if self._per_token < 1:
            raise error
        self._per_token /= 2


def _question(number: int, card: ModelCard) -> Request:
    question = QUESTIONS[number % len(QUESTIONS)]
    return Request(messages=(Message(role="user", content=question),))


def _report(
    card: ModelCard,
    side: TimedRuns,
    watch: Disturbance,
    apart: float,
    drafts: DraftReport | None = None,
) -> SpeedReport:
    usages, busy = [end.usage for end in side.ends], watch.busy_cores()
    return SpeedReport(
        model=card.name,
        quantization=card.quantization,
        size_bytes=card.size_bytes,
        max_model_len=card.max_model_len,
        load_s=side.load_s,
        first_token_s=side.firsts[0],
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        prefill_tokens_per_s=_rate(
            sum(usage.prompt_tokens for usage in usages), sum(u.prefill_s for u in usages)
        ),
        answer_tokens=sum(usage.completion_tokens for usage in usages),
        decode_tokens_per_s=side.decode_rate(),
        memory_bytes=psutil.Process().memory_info().rss,
        others_busy_cores=round(busy, 2),
        warning=watch.warning(busy, [apart]),
        samples={
            "decode_tokens_per_s": side.rates(),
            "prefill_tokens_per_s": [_rate(u.prompt_tokens, u.prefill_s) for u in usages],
            "first_token_s": side.firsts,
        },
        drafts=drafts,
    )


def _drafts(settings: Settings, side: TimedRuns, without: TimedRuns) -> DraftReport:
    edge = settings.edge
    return DraftReport(
        ratio=side.decode_rate() / (without.decode_rate() or 1.0),
        decode_tokens_per_s_without=without.decode_rate(),
        model=Path(edge.draft_model).name,
        max_draft_tokens=edge.max_draft_tokens,
        proposed=side.proposed,
        accepted=side.accepted,
        acceptance=side.accepted / side.proposed if side.proposed else 0.0,
        same_answers=side.texts == without.texts,
    )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
