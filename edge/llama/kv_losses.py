"""KV cache types compared with f16: bytes, likelihood and seconds, and the losses measured here."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from backbone.files import atomic_write
from edge.device.cpu_load import num_usable_cores, spread
from edge.llama.context import Context, ContextParams
from edge.llama.gguf_file import fingerprint
from edge.llama.kv_types import F16, CacheShape, KvTypes
from edge.llama.native_handles import Model
from edge.llama.sampler import ConfidenceGauge, Sampler
from offload.errors import RequestError
from offload.messages import Sampling

CHUNK = 32  # tokens whose logits are held at once
TIMED_STEPS = 32
TIMED_RUNS = 3
KINDS = ("f16", "q8_0/f16", "f16/q8_0", "q8_0", "q5_1", "k8v4", "q4_0", "iq4_nl")


class KvRow(msgspec.Struct, frozen=True, kw_only=True):
    """KV cache type beside f16; `divergence` is the mean Kullback-Leibler divergence in nats."""

    name: str
    bytes_per_token: float
    ratio_to_f16: float  # how many times smaller
    perplexity: float
    perplexity_change: float  # relative to f16: 0.01 is one per cent worse
    divergence: float
    num_tokens: int  # of the text that it was judged by
    tokens_per_s: float  # the median of some runs
    tokens_per_s_spread: float  # from the slowest run to the quickest, as a share of the median


def kv_report(
    path: Path,
    *,
    names: Sequence[str] = KINDS,
    text: str | None = None,
    num_tokens: int = 512,
    num_threads: int = 0,
) -> list[KvRow]:
    """Compare types on a text, or on one that the model samples itself; f16 is the measure.

    Types that the model's heads do not allow are left out. Raises RequestError for a text of
    fewer than 2 tokens, CheckpointError for a file that cannot be run.
    """
    with Model(path) as model:
        length = min(num_tokens, model.trained_len - TIMED_STEPS)
        threads = num_threads or num_usable_cores()
        if text is None:
            tokens = _own_text(model, length, threads)
        else:
            tokens = model.vocabulary.tokenize(text, add_special=True)[:length]
        if len(tokens) < 2:
            raise RequestError("the text has fewer than 2 tokens; give a longer one")
        shape = CacheShape.of(model)
        kinds = [kind for kind in map(KvTypes.parse, names) if shape.allows(kind)]
        return [_row(model, kind, tokens, threads) for kind in kinds]


def _row(model: Model, kind: KvTypes, tokens: Sequence[int], num_threads: int) -> KvRow:
    losses, base_losses, divergences = [], [], []
    with (
        _context(model, F16, len(tokens), num_threads) as base,
        _context(model, kind, len(tokens), num_threads) as other,
    ):
        pairs = zip(_logprobs(base, tokens), _logprobs(other, tokens), strict=True)
        for target, (base_row, row) in zip(tokens[1:], pairs, strict=False):
            losses.append(-row[target])
            base_losses.append(-base_row[target])
            divergences.append(float((np.exp(base_row) * (base_row - row)).sum()))
        speeds = [_speed(other, tokens) for _ in range(TIMED_RUNS)]
    shape = CacheShape.of(model)
    size, base_size = (shape.cache_bytes(each, 1024) / 1024 for each in (kind, F16))
    loss, base_loss = float(np.mean(losses)), float(np.mean(base_losses))
    return KvRow(
        name=str(kind),
        bytes_per_token=size,
        ratio_to_f16=base_size / size,
        perplexity=math.exp(loss),
        perplexity_change=math.expm1(loss - base_loss),
        divergence=float(np.mean(divergences)),
        num_tokens=len(tokens),
        tokens_per_s=statistics.median(speeds),
        tokens_per_s_spread=spread(speeds),
    )


def _context(model: Model, kind: KvTypes, num_tokens: int, num_threads: int) -> Context:
    params = ContextParams(
        num_tokens=num_tokens + TIMED_STEPS,
        num_threads=num_threads,
        batch_size=CHUNK,
        kv_types=kind,
        num_outputs=CHUNK,
    )
    return Context(model, params)


def _logprobs(context: Context, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the log-probabilities after each token, [vocabulary]."""
    for start in range(0, len(tokens), CHUNK):
        chunk = tokens[start : start + CHUNK]
        context.decode(chunk, start, all_logits=True)
        for row in range(len(chunk)):
            shifted = context.logits(row).astype(np.float64)
            shifted -= shifted.max()
            yield shifted - np.log(np.exp(shifted).sum())


def _speed(context: Context, tokens: Sequence[int]) -> float:
    """Return decode steps per second after the text, and forget them again."""
    started = time.perf_counter()
    for step in range(TIMED_STEPS):
        context.decode([tokens[0]], len(tokens) + step)
    seconds = time.perf_counter() - started
    if not context.keep_prefix(len(tokens)):  # a recurrent state cannot go back
        context.clear()
    return TIMED_STEPS / seconds


def _own_text(model: Model, length: int, num_threads: int) -> list[int]:
    """Return what the model says of itself, at temperature 1; the same at each call."""
    vocabulary = model.vocabulary
    tokens = vocabulary.tokenize("", add_special=True) or vocabulary.tokenize("The")
    sampling = Sampling(temperature=1.0, seed=1)
    sampler = Sampler(sampling, vocabulary, ConfidenceGauge(vocabulary.num_tokens))
    with _context(model, F16, length, num_threads) as context:
        context.decode(tokens, 0)
        while len(tokens) < length:
            token, _ = sampler.next(context.logits())
            context.decode([token], len(tokens))
            tokens.append(token)
    return tokens


MAX_MODELS = 64  # the oldest make room


class KvLoss(msgspec.Struct, frozen=True, kw_only=True):
    """Loss of a KV cache type beside f16: relative perplexity, and mean divergence in nats."""

    measured_on: str
    num_tokens: int
    perplexity_change: float
    divergence: float

    def __str__(self) -> str:
        return (
            f"measured {self.measured_on} on {self.num_tokens} tokens: perplexity "
            f"{self.perplexity_change:+.2%}, KL divergence {self.divergence:.4f}"
        )


Losses = dict[str, dict[str, KvLoss]]  # by fingerprint of the model's file, then by type


def keep_losses(file: Path, model: Path, rows: Iterable[KvRow]) -> None:
    """Add what was measured of a model to the file."""
    kept, name = _read(file), fingerprint(model)
    mine = kept.pop(name, {})
    for row in rows:
        mine[row.name] = KvLoss(
            measured_on=str(date.today()),
            num_tokens=row.num_tokens,
            perplexity_change=row.perplexity_change,
            divergence=row.divergence,
        )
    newest = [*kept.items(), (name, mine)][-MAX_MODELS:]
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, msgspec.json.encode(dict(newest)))


def known_loss(file: Path, model: Path, kind: str) -> KvLoss | None:
    """Return what a type loses with a model, or None where it was never measured."""
    return _read(file).get(fingerprint(model), {}).get(kind)


def compression_notice(model: Model, kinds: KvTypes) -> str:
    """Return what a person is told where memory made the KV cache smaller than f16."""
    remedy = "nearfar bench edge --kv measures what that costs"
    if not kinds.keys_are_plain and CacheShape.of(model).keys_are_uneven:
        path = model.path
        remedy = f"this model loses much by that: nearfar quantize smooth-keys {path} NEW.gguf"
    return f"memory is short, so the KV cache is kept in {kinds} and answers may differ; {remedy}"


def _read(file: Path) -> Losses:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Losses)
    except (OSError, msgspec.DecodeError):
        return {}  # nothing is lost with it but figures that can be measured again
