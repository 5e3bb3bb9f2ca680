"""What a smaller KV cache costs real models: types, and windows with and without sinks.

    python -m benchmarks.kv_real --models FOLDER --text wikitext2_test.txt [--chats] [--quick]

For every GGUF in the folder, perplexity and mean Kullback-Leibler divergence beside a full cache in
f16, on the text and, with --chats, on conversations that the largest model writes. What is measured
is kept in benchmarks/kv_real.json at once, and not computed again while the file has it: stop it
and go on. Nothing here is a timing, so a busy machine only takes longer.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.files import SHARED, atomic_write
from benchmarks.kv_picture import draw, table
from edge.llama.context import Context, ContextParams
from edge.llama.kv_cache import KvCache
from edge.llama.kv_types import F16, CacheShape, KvTypes
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from engine.window import Pins, Window
from offload.messages import Delta, Message, Request, Sampling

RESULTS = Path(__file__).with_suffix(".json")
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "kv-cache.svg"
KINDS = ("q8_0/f16", "q8_0", "k8v4", "q4_0")
WINDOWS = (512, 1024, 2048)
NUM_WINDOWS = 10  # a text is so many windows long
NUM_SINKS = (0, 4)
CHUNK = 64  # tokens whose logits are held at once
SKIPPED = 4_000  # characters at a text's start, by which smooth-keys' floor was chosen
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


@dataclass(frozen=True)
class Cache:
    """A KV cache to be judged: its types, the tokens it holds, and the first that it keeps."""

    kinds: KvTypes
    capacity: int
    num_sinks: int = 0


@dataclass(frozen=True)
class Scores:
    """Logits of a token less their largest, [vocabulary], and the log of their exponents' sum."""

    shifted: npt.NDArray[np.float32]
    log_sum: float

    def loss(self, target: int) -> float:
        """Return what a token surprises by, in nats."""
        return self.log_sum - float(self.shifted[target])

    def divergence_to(self, other: Scores) -> float:
        """Return the Kullback-Leibler divergence, in nats."""
        # The constants apart: they would round each of 150,000 differences.
        mean = np.dot(np.exp(self.shifted), self.shifted - other.shifted) / math.exp(self.log_sum)
        return float(mean) - self.log_sum + other.log_sum


def scores(model: Model, tokens: Sequence[int], cache: Cache) -> Iterator[Scores]:
    """Yield the scores after each token of a text that goes through a cache."""
    params = ContextParams(
        num_tokens=cache.capacity,
        num_threads=1,
        batch_size=CHUNK,
        kv_types=cache.kinds,
        flash_attention=cache.kinds.values_need_flash,
        num_outputs=CHUNK,
    )
    with Context(model, params) as context:
        window = Window(cache.capacity, num_sinks=cache.num_sinks, block=64)
        kept = KvCache(context, window, sliding=True, reuse=False)
        pins = Pins(num_first=0, last_start=0, last_end=0)
        for start in range(0, len(tokens), CHUNK):
            chunk = list(tokens[start : start + CHUNK])
            kept.append(chunk, pins)
            for row in range(len(chunk)):
                logits = kept.logits(row)
                shifted = logits - logits.max()
                yield Scores(shifted, math.log(float(np.exp(shifted).sum(dtype=np.float64))))


def compared(model: Model, tokens: Sequence[int], caches: dict[str, Cache]) -> dict[str, Row]:
    """Return what each cache loses beside a full one in f16, over all tokens but the first."""
    full = Cache(F16, len(tokens) + 1)
    sides = [scores(model, tokens, cache) for cache in (full, *caches.values())]
    losses: list[list[float]] = []
    divergences: list[list[float]] = []
    for target, (base, *others) in zip(tokens[1:], zip(*sides, strict=True), strict=False):
        losses.append([side.loss(target) for side in (base, *others)])
        divergences.append([base.divergence_to(other) for other in others])
    for side in sides:
        side.close()  # type: ignore[attr-defined]
    apart = np.array(losses)[:, 1:] - np.array(losses)[:, :1]  # [tokens, caches]
    return {
        name: {
            "num_tokens": len(tokens),
            "perplexity_full_f16": round(math.exp(np.mean(losses, axis=0)[0]), 4),
            "perplexity_change": round(math.expm1(apart[:, at].mean()), 6),
            "standard_error": round(float(apart[:, at].std() / math.sqrt(len(apart))), 6),
            "divergence": round(float(np.mean(divergences, axis=0)[at]), 6),
            "worst_tenth": _worst([each[at] for each in divergences]),
        }
        for at, name in enumerate(caches)
    }


def _worst(divergences: Sequence[float]) -> float:
    """Return the mean divergence of the worst tenth of a text: a collapse shows here."""
    tenths = np.array_split(np.array(divergences), 10)
    return round(float(max(tenth.mean() for tenth in tenths)), 6)


def chat(engine: LlamaEngine, begin: int) -> str:
    """Return a conversation that a model writes, three turns in its own template."""
    messages: list[Message] = []
    for question in (ASKED[begin:] + ASKED[:begin])[:3]:
        messages.append(Message(role="user", content=question))
        sampling = Sampling(max_tokens=220, temperature=0.7, top_p=0.9, seed=begin)
        items = engine.answer(Request(messages=tuple(messages), sampling=sampling))
        said = "".join(item.text for item in items if isinstance(item, Delta))
        messages.append(Message(role="assistant", content=said))
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def kinds_of(model: Model, num_tokens: int) -> dict[str, Cache]:
    """Return a cache of each type that the model's heads allow."""
    parsed = {kind: KvTypes.parse(kind) for kind in KINDS}
    allowed = CacheShape.of(model).allows
    return {kind: Cache(each, num_tokens + 1) for kind, each in parsed.items() if allowed(each)}


def windows_of(size: int) -> dict[str, Cache]:
    """Return windows of a size, with and without sinks."""
    return {f"{sinks} sinks": Cache(F16, size + sinks, sinks) for sinks in NUM_SINKS}


def tokens_of(model: Model, text: str, length: int) -> list[int]:
    """Return so many tokens of a text, behind its first characters."""
    piece = text[SKIPPED : SKIPPED + 8 * length]
    return model.vocabulary.tokenize(piece, add_special=True)[:length]


def part(model: Model, name: str, texts: dict[str, str], *, quick: bool) -> dict[str, Row]:
    """Measure the types on a text, or the windows of a size ("window 512"); {} where too long."""
    if name in texts:
        tokens = tokens_of(model, texts[name], 400 if quick else 2000)
        caches = kinds_of(model, len(tokens))
    else:
        size = int(name.removeprefix("window "))
        tokens = tokens_of(model, texts["text"], size * (2 if quick else NUM_WINDOWS))
        caches = windows_of(size)
    return compared(model, tokens, caches) if len(tokens) < model.trained_len else {}


class Results:
    """The file of results, written whenever something is added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def keep(self, *names: str, value: Any) -> None:
        """Add a value under names, one below the other."""
        table = self.found
        for name in names[:-1]:
            table = table.setdefault(name, {})
        table[names[-1]] = value
        atomic_write(self._path, json.dumps(self.found, indent=1).encode(), mode=SHARED)
        print(*names, value, flush=True)


def write_chats(results: Results, path: Path) -> None:
    """Have a model write the conversations that are missing."""
    said: list[str] = results.found.get("chats", [])
    if len(said) == len(ASKED):
        return
    with closing(LlamaEngine(path, options=LlamaOptions(max_model_len=2048))) as engine:
        for begin in range(len(said), len(ASKED)):
            said.append(chat(engine, begin))
            results.keep("chats", value=said)
    results.keep("chats_by", value=path.stem)


def main() -> None:
    """Compute what is missing, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="a folder of GGUF files")
    parser.add_argument("--text", type=Path, required=True, help="a text in UTF-8")
    parser.add_argument("--only", default="", help="a part of the names of models to measure")
    parser.add_argument("--parts", nargs="+", help="text, chats, window 512, ... (default: all)")
    parser.add_argument("--chats", action="store_true", help="judge by chats, too; slow to write")
    parser.add_argument("--quick", action="store_true", help="short texts, for a look")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--draw", action="store_true", help="draw the picture and print the table")
    asked = parser.parse_args()
    files = sorted(asked.models.glob("*.gguf"), key=lambda path: path.stat().st_size)
    results = Results(asked.out)
    if asked.chats:
        write_chats(results, files[-1])
    texts = {"text": asked.text.read_text(encoding="utf-8")}
    if "chats" in results.found:
        texts["chats"] = "\n\n".join(results.found["chats"])
    for name in asked.parts or [*texts, *(f"window {size}" for size in WINDOWS)]:
        for path in files:
            if asked.only in path.name and name not in results.found.get(path.stem, {}):
                with Model(path) as model:
                    measured = part(model, name, texts, quick=asked.quick)
                results.keep(path.stem, name, value=measured)
    if asked.draw:
        draw(results.found, PICTURE)
        print(table(results.found))


if __name__ == "__main__":
    main()
