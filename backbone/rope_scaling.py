"""RoPE scaling: stretched positions beyond those of the training, as config.json states them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from backbone.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """RoPE scaling: angles stretched for positions beyond those of the training.

    "llama3" stretches by frequency, "linear" all alike; "yarn" blends both and sharpens attention
    (arXiv 2309.00071); "longrope" has a divisor for each frequency, one list for contexts within
    the original and one for longer ones (arXiv 2402.13753).
    """

    kind: str  # "llama3", "linear", "yarn" or "longrope"
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()

    @classmethod
    def from_hf(
        cls,
        raw: dict[str, Any],
        max_position_embeddings: int = 0,
        original_max_position_embeddings: int | None = None,
    ) -> RopeScaling | None:
        """Read Hugging Face's rotary settings; None where nothing is stretched."""
        kind = raw.get("rope_type", raw.get("type", "default"))
        if kind == "default":
            return None
        if kind not in ("llama3", "linear", "yarn", "longrope"):
            raise CheckpointError(
                f"rope scaling {kind!r} is not supported; use a checkpoint with llama3, linear, "
                "yarn or longrope"
            )
        names = {each.name for each in fields(cls)} - {"kind", "factor"}
        known = {name: raw[name] for name in names if raw.get(name) is not None}
        if kind == "yarn" and max_position_embeddings:
            known.setdefault("original_max_position_embeddings", max_position_embeddings)
        if kind != "longrope":
            return cls(kind=kind, factor=float(raw["factor"]), **known)
        original = original_max_position_embeddings or known.get("original_max_position_embeddings")
        original = int(original or max_position_embeddings)
        known["original_max_position_embeddings"] = original
        for name in ("short_factor", "long_factor"):
            known[name] = tuple(float(value) for value in raw[name])
        return cls(kind=kind, factor=max_position_embeddings / original, **known)
