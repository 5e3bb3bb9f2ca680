"""KV cache losses measured on this device, kept by model file: what `doctor` tells of a type."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date
from pathlib import Path

import msgspec

from backbone.private_files import write_whole
from edge.llama.cache_shape import CacheShape
from edge.llama.file_fingerprint import fingerprint
from edge.llama.kv_report import KvRow
from edge.llama.kv_types import KvTypes
from edge.llama.native_handles import Model

MAX_MODELS = 64  # the oldest make room


class KvLoss(msgspec.Struct, frozen=True, kw_only=True):
    """What a type lost beside f16: perplexity, relative, and mean divergence in nats."""

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
    write_whole(file, msgspec.json.encode(dict(newest)))


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
