"""Rows of the edge's benchmark that are about what is kept: windows, sessions, bytes."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import edge_sides as sides
from benchmarks.edge_model import random_model
from edge.llama.binding import Model
from edge.llama.cache import KvCache
from edge.llama.context import Context, ContextParams
from edge.llama.kv_report import kv_report
from edge.llama.kv_types import F16, KvTypes
from edge.llama.sampler import Gauge, Sampler
from edge.llama.shape import CacheShape
from edge.llama.window import Pins, Window
from offload.messages import Message, Request, Role, Sampling
from offload.pair import EDGE_MODEL

Row = dict[str, Any]
SHARED = Path(__file__).parents[2] / "shared" / "models"
TURN = "And then? Tell me what the keeper of the lighthouse did, number {}, and why he did it so."
REPLY = "He climbed the stairs, lit the lamp, and wrote the hour into his book, as on every day."


def long_chat(quick: bool) -> Row:
    """Turn 50 of a chat past the context, beside a program that truncates and reads anew."""
    path, turns, length = random_model(), 12 if quick else 50, 512 if quick else 1024
    ours = sides.engine(path, max_model_len=length, kv_cache_dtype="auto")
    firsts = []
    for turn in range(1, turns + 1):
        request = Request(messages=_history(turn), sampling=Sampling(max_tokens=2))
        first, _, finish = sides.our_answer(ours, request)
        firsts.append(first)
    dropped = finish.dropped_tokens
    ours.close()
    theirs = sides.library(path, num_ctx=length)
    for turn in (turns - 1, turns):
        messages = _truncated(theirs, turn, length - 8)
        their_first, _ = sides.library_chat(theirs, 2, messages)
    theirs.close()
    early = float(np.median(firsts[3:6]))  # turns 4 to 6, late: the last three
    late = float(np.median(firsts[-3:]))
    return {
        "ratio": their_first / late,
        "ours": late,
        "theirs": their_first,
        "unit": f"s to the first token at turn {turns}",
        "late_to_early": late / early,
        "turn_5_s": early,
        "dropped_tokens": dropped,
        "max_model_len": length,
    }


def _history(turn: int) -> tuple[Message, ...]:
    messages = []
    for number in range(1, turn + 1):
        for role, text in (("user", TURN.format(number)), ("assistant", REPLY)):
            known: Role = "user" if role == "user" else "assistant"
            messages.append(Message(role=known, content=text))
    return tuple(messages[:-1])


def _truncated(model: Any, turn: int, limit: int) -> list[dict[str, str]]:
    """Return the newest turns that fit, as programs do that know nothing of windows."""
    messages = [{"role": m.role, "content": m.content} for m in _history(turn)]
    while True:
        text = "".join(m["content"] for m in messages)
        if len(model.tokenize(text.encode())) + 4 * len(messages) <= limit:
            return messages
        messages = messages[2:]


def session(quick: bool) -> Row:
    """Yesterday's conversation from disk, beside reading it again."""
    path, num_tokens = random_model(), 300 if quick else 2000
    text = "The keeper wrote of ships and weather. " * num_tokens
    with tempfile.TemporaryDirectory() as folder:
        options = {"session_folder": Path(folder), "kv_cache_dtype": "auto"}
        ours = sides.engine(path, max_model_len=4096, **options)
        prompt = ours.prompt_tokens(Request(prompt=text))[:num_tokens]
        text = ours.detokenize(prompt).decode()
        request = Request(prompt=text, session="yesterday", sampling=Sampling(max_tokens=2))
        read_first, _, read = sides.our_answer(ours, request)
        started = time.perf_counter()
        ours.close()
        close_s = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).glob("*.kv"))
        restored = []
        for _ in range(3):
            ours = sides.engine(path, max_model_len=4096, **options)
            kv = str(ours.params.kv_types)
            first, _, finish = sides.our_answer(ours, request)
            restored.append((finish.usage.queue_s, first))
            ours.close()
    restore_s, first_s = min(restored)
    return {
        "ratio": read.usage.prefill_s / restore_s,
        "ours": restore_s,
        "theirs": read.usage.prefill_s,
        "unit": f"s for {len(prompt)} tokens",
        "first_token_ours": first_s,
        "first_token_theirs": read_first,
        "save_and_close_s": close_s,
        "file_bytes": size,
        "kv_cache_dtype": kv,
    }


def kv_types(quick: bool) -> Row:
    """Bytes and perplexity of keys and values in fewer bits, on models that were trained."""
    shared = [SHARED / name / f"{name}-f32.gguf" for name in ("stories3M", "stories260K")]
    table = {}
    for path in (EDGE_MODEL, *(each for each in shared if each.exists())):
        rows = kv_report(path, num_tokens=128 if quick else 480, num_threads=1)
        table[path.stem] = {
            row.name: {
                "ratio": row.ratio_to_f16,
                "perplexity_change": row.perplexity_change,
                "divergence": row.divergence,
            }
            for row in rows
        }
    embedded = table[EDGE_MODEL.stem]
    return {
        "ratio": embedded["q8_0"]["ratio"],
        "ours": embedded["q8_0"]["perplexity_change"],
        "theirs": 0.0,
        "unit": "perplexity change of q8_0 against f16, embedded model",
        "models": table,
    }


def stream(quick: bool) -> Row:
    """A stream of ten windows: the same passage judged at its start and at its end."""
    trained = SHARED / "stories3M" / "stories3M-f32.gguf"
    path = trained if trained.exists() else EDGE_MODEL
    first, last, whole = _drift(path, window=64 if quick else 192)
    ours = sides.engine(random_model(), max_model_len=128, window=124, kv_cache_dtype="q8_0")
    process, rates, sizes = psutil.Process(), [], []
    started = time.perf_counter()
    num_tokens = 130 * (2 if quick else 10)
    request = Request(prompt="Once upon a time", sampling=Sampling(max_tokens=num_tokens))
    for count, _ in enumerate(ours.answer(request), 1):
        if count % 130 == 0:
            rates.append(130 / (time.perf_counter() - started))
            sizes.append(process.memory_info().rss)
            started = time.perf_counter()
    ours.close()
    return {
        "ratio": last / first,
        "ours": last,
        "theirs": first,
        "unit": f"perplexity of one passage in the last and the first window, {path.stem}",
        "perplexity_without_a_window": whole,
        "windows_loss": first / whole - 1,
        "tokens_per_s": rates,
        "tokens_per_s_change": rates[-1] / rates[0] - 1,
        "memory_bytes": sizes,
        "memory_growth": sizes[-1] / sizes[0] - 1,
    }


def _drift(path: Path, *, window: int) -> tuple[float, float, float]:
    """Return a passage's perplexity in the second window, in the tenth, and with all before it.

    The stream is lead, passage, others, lead, passage, each lead and passage one window long, so
    that both times the passage is judged by the same tokens: the sinks and its lead.
    """
    with Model(path) as model:
        start, body = _texts(model, window)
        lead, passage, *others = body
        tokens = [*start, *lead, *passage, *(t for text in others for t in text)]
        again = len(tokens) + len(lead)
        tokens += [*lead, *passage]
        losses = _losses(model, tokens, capacity=window + len(start), num_sinks=len(start))
        whole = _losses(model, [*start, *lead, *passage], capacity=3 * window, num_sinks=len(start))
        at = len(start) + len(lead)
    spans = (losses[at : at + window], losses[again : again + window], whole[at:])
    return tuple(math.exp(float(np.mean(span))) for span in spans)  # type: ignore[return-value]


def _texts(model: Model, window: int) -> tuple[list[int], list[list[int]]]:
    """Return what begins a text, and eight texts of a window, written by the model itself."""
    vocabulary = model.vocabulary
    start = vocabulary.tokenize("Once upon a time", add_special=True)[:4]
    texts = []
    for seed in range(8):
        sampling = Sampling(temperature=0.9, seed=seed)
        params = ContextParams(num_tokens=window + 8, num_threads=1, kv_types=F16)
        gauge = Gauge(vocabulary.num_tokens)
        with Context(model, params) as context, Sampler(sampling, vocabulary, gauge) as sampler:
            tokens = list(start)
            context.decode(tokens, 0)
            while len(tokens) < len(start) + window:
                token, _ = sampler.next(context.logits())
                context.decode([token], len(tokens))
                tokens.append(token)
        texts.append(tokens[len(start) :])
    return start, texts


def _losses(model: Model, tokens: Sequence[int], *, capacity: int, num_sinks: int) -> list[float]:
    """Return the loss of each token, in nats, given what the window then holds; the first has 0."""
    kinds = KvTypes.parse("q8_0")
    if not CacheShape.of(model).slides(kinds):
        kinds = F16
    params = ContextParams(num_tokens=capacity, num_threads=1, kv_types=kinds)
    losses = [0.0]
    with Context(model, params) as context:
        window = Window(capacity, num_sinks=num_sinks, block=16)
        cache = KvCache(context, window, sliding=True, reuse=False)
        pins = Pins(num_first=0, last_start=0, last_end=0)
        for token, target in itertools.pairwise(tokens):
            cache.append([token], pins)
            row = cache.logits(0).astype(np.float64)
            row -= row.max()
            losses.append(float(np.log(np.exp(row).sum()) - row[target]))
    return losses
