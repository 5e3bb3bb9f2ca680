"""What a smaller KV cache costs real models: types, and windows with and without sinks.

    python -m benchmarks.kv_real --models FOLDER --text wikitext2_test.txt [--chats] [--quick]

For every GGUF in the folder, perplexity and mean Kullback-Leibler divergence beside a full cache in
f16, on the text and, with --chats, on conversations that the largest model writes. A row is kept in
benchmarks/kv_real.json as soon as it is there, and not computed again while the file has it: stop
it and go on. Nothing here is a timing, so a busy machine only takes longer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.files import SHARED, atomic_write
from edge.llama.context import Context, ContextParams
from edge.llama.kv_cache import KvCache
from edge.llama.kv_types import F16, CacheShape, KvTypes
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from engine.window import Pins, Window
from offload.messages import Delta, Message, Request, Sampling

RESULTS = Path(__file__).with_suffix(".json")
KINDS = ("f16", "q8_0/f16", "f16/q8_0", "q8_0", "k8v4", "q4_0")
WINDOWS = [(size, sinks) for size in (512, 1024, 2048) for sinks in (0, 4)]
CHUNK = 32  # tokens whose logits are held at once
ASKED = (
    "How do I plan a small vegetable garden?",
    "Write a Python function that finds the longest word in a text.",
    "What should I look at before I rent a flat?",
    "Explain how a bicycle stays upright.",
    "Now say it to a child of six.",
    "Give me three ideas for a rainy weekend with friends.",
    "What is the difference between a list and a tuple in Python?",
    "Write a short letter that asks a neighbour to be quieter at night.",
)
Row = dict[str, Any]


def log_probabilities(
    model: Model, tokens: Sequence[int], kinds: KvTypes, *, capacity: int, num_sinks: int = 0
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the log-probabilities after each token, [vocabulary], from a cache of `capacity`."""
    params = ContextParams(
        num_tokens=capacity,
        num_threads=1,
        batch_size=CHUNK,
        kv_types=kinds,
        flash_attention=kinds.values_need_flash,
        num_outputs=CHUNK,
    )
    with Context(model, params) as context:
        window = Window(capacity, num_sinks=num_sinks, block=64)
        cache = KvCache(context, window, sliding=True, reuse=False)
        pins = Pins(num_first=0, last_start=0, last_end=0)
        for start in range(0, len(tokens), CHUNK):
            chunk = list(tokens[start : start + CHUNK])
            cache.append(chunk, pins)
            for row in range(len(chunk)):
                shifted = cache.logits(row).astype(np.float64)
                shifted -= shifted.max()
                yield shifted - np.log(np.exp(shifted).sum())


def compared(model: Model, tokens: Sequence[int], kinds: KvTypes, **cache: int) -> Row:
    """Return what a cache loses beside a full one in f16, over all tokens but the first."""
    full = log_probabilities(model, tokens, F16, capacity=len(tokens) + 1)
    other = log_probabilities(model, tokens, kinds, **cache)
    losses, divergences = [], []
    for target, base, row in zip(tokens[1:], full, other, strict=False):
        losses.append((-base[target], -row[target]))
        divergences.append(float((np.exp(base) * (base - row)).sum()))
    base_loss, loss = np.mean(losses, axis=0)
    apart = np.diff(np.array(losses), axis=1)
    return {
        "num_tokens": len(tokens),
        "perplexity_full_f16": round(math.exp(base_loss), 4),
        "perplexity_change": round(math.expm1(loss - base_loss), 6),
        "standard_error": round(float(apart.std() / math.sqrt(len(apart))), 6),
        "divergence": round(float(np.mean(divergences)), 6),
        "worst_tenth": _worst(divergences),
    }


def _worst(divergences: Sequence[float]) -> float:
    """Return the mean divergence of the worst tenth of a text: a collapse shows here."""
    tenths = np.array_split(np.array(divergences), 10)
    return round(float(max(tenth.mean() for tenth in tenths)), 6)


def chats(path: Path) -> str:
    """Return conversations that a model writes, three turns each, in its own template."""
    engine = LlamaEngine(path, options=LlamaOptions(max_model_len=2048))
    texts = []
    try:
        for begin in range(len(ASKED)):
            messages: list[Message] = []
            for question in (ASKED[begin:] + ASKED[:begin])[:3]:
                messages.append(Message(role="user", content=question))
                sampling = Sampling(max_tokens=220, temperature=0.7, top_p=0.9, seed=begin)
                items = engine.answer(Request(messages=tuple(messages), sampling=sampling))
                said = "".join(item.text for item in items if isinstance(item, Delta))
                messages.append(Message(role="assistant", content=said))
            texts += [f"{message.role}: {message.content}" for message in messages]
    finally:
        engine.close()
    return "\n\n".join(texts)


def rows(model: Model, texts: dict[str, str], *, quick: bool) -> Iterator[tuple[str, Any]]:
    """Yield each row's name and the call that computes it, the cheap ones first."""
    shape, length = CacheShape.of(model), 400 if quick else 2000
    for (name, text), kind in itertools.product(texts.items(), KINDS[1:]):
        kinds, tokens = KvTypes.parse(kind), _tokens(model, text, length)
        if shape.allows(kinds):
            capacity = len(tokens) + 1
            yield (
                f"{name}, {kind}",
                lambda k=kinds, t=tokens, c=capacity: compared(model, t, k, capacity=c),
            )
    for size, sinks in WINDOWS[: 2 if quick else None]:
        tokens = _tokens(model, texts["text"], size * (2 if quick else 10))
        if len(tokens) < model.trained_len:
            yield (
                f"text, window {size}, {sinks} sinks",
                lambda t=tokens, n=size, s=sinks: compared(
                    model, t, F16, capacity=n + s, num_sinks=s
                ),
            )


def _tokens(model: Model, text: str, length: int) -> list[int]:
    return model.vocabulary.tokenize(text[: 8 * length], add_special=True)[:length]


def main() -> None:
    """Compute what is missing, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="a folder of GGUF files")
    parser.add_argument("--text", type=Path, required=True, help="a text in UTF-8")
    parser.add_argument("--only", default="", help="a part of the names of models to measure")
    parser.add_argument("--chats", action="store_true", help="judge by chats, too; slow to write")
    parser.add_argument("--quick", action="store_true", help="short texts, for a look")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    files = sorted(asked.models.glob("*.gguf"), key=lambda path: path.stat().st_size)
    found: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    if asked.chats and "chats" not in found:
        found["chats"], found["chats_by"] = chats(files[-1]), files[-1].stem
    texts = {"text": asked.text.read_text(encoding="utf-8")}
    texts |= {"chats": found["chats"]} if "chats" in found else {}
    for path in files:
        if asked.only not in path.name:
            continue
        mine = found.setdefault(path.stem, {})
        with Model(path) as model:
            for name, measure in rows(model, texts, quick=asked.quick):
                if name not in mine:
                    mine[name] = measure()
                    atomic_write(asked.out, json.dumps(found, indent=1).encode(), mode=SHARED)
                    print(path.stem, name, mine[name], flush=True)


if __name__ == "__main__":
    main()
