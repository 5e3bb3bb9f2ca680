"""Type plan: a type for every matrix, so that the file fits and predictions change least."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone.errors import NearfarError, WrongUsage
from quantize.architectures import Config, head_dim, num_kv_heads
from quantize.gguf import Conversion, convert
from quantize.knapsack import Option, choose
from quantize.llama_quantizer import exact_overrides
from quantize.sensitivity import Sensitivity

# Blocks of a tensor begin at multiples of this many bytes in the file.
_ALIGNMENT = 32
_MEMORY_SHARE = 0.8  # the rest is left to everything else on the device
_COMPUTE_BYTES = 64 << 20  # llama.cpp's own buffers
_BASE_KINDS = {
    "q2_k": "q2_k",
    "q3_k": "q3_k_m",
    "q5_0": "q5_0",
    "q5_k": "q5_k_m",
    "q6_k": "q6_k",
    "q8_0": "q8_0",
    "f16": "q8_0",
}


@dataclass(frozen=True, kw_only=True)
class TypePlan:
    """The chosen type of each matrix, and what is expected of the whole."""

    types: Mapping[str, str]  # GGUF tensor name -> type
    size_bytes: int
    bits_per_weight: float
    predicted_kld: float  # the sum of the parts, in nats per position

    @property
    def overrides(self) -> dict[str, str]:
        """Return what `convert` takes."""
        return exact_overrides(self.types)

    @property
    def base_kind(self) -> str:
        """Return the kind that the file calls itself: the one of its commonest type."""
        commonest = Counter(self.types.values()).most_common(1)[0][0]
        return _BASE_KINDS.get(commonest, "q4_k_m")


def make_plan(sensitivity: Sensitivity, budget_bytes: int) -> TypePlan:
    """Return the plan of least expected divergence whose file has at most `budget_bytes`.

    Raises NearfarError where even the smallest types do not fit, and says how much would.
    """
    names = sorted(sensitivity.kld)
    items = [
        [
            Option(name=kind, size_bytes=_aligned(sensitivity.size_bytes[n][kind]), cost=kld)
            for kind, kld in sensitivity.kld[n].items()
        ]
        for n in names
    ]
    chosen = choose(items, budget_bytes - sensitivity.overhead_bytes)
    if chosen is None:
        smallest = sum(min(o.size_bytes for o in options) for options in items)
        raise NearfarError(
            f"{budget_bytes:,} bytes are too few: the smallest types need "
            f"{smallest + sensitivity.overhead_bytes:,}; give a larger budget"
        )
    matrix_bytes = sum(option.size_bytes for option in chosen)
    weights = sum(sensitivity.num_weights.values())
    return TypePlan(
        types={name: option.name for name, option in zip(names, chosen, strict=True)},
        size_bytes=matrix_bytes + sensitivity.overhead_bytes,
        bits_per_weight=8 * matrix_bytes / weights,
        predicted_kld=sum(option.cost for option in chosen),
    )


def budget_for_bpw(sensitivity: Sensitivity, bits_per_weight: float) -> int:
    """Return the file's bytes at so many bits per weight of the matrices."""
    if bits_per_weight <= 0:
        raise NearfarError("--target-bpw must be positive, for example 4.5")
    weights = sum(sensitivity.num_weights.values())
    return int(weights * bits_per_weight / 8) + sensitivity.overhead_bytes


def budget_for_memory(
    config: Config, available_bytes: int, *, context_len: int, kv_bits: float = 8.5
) -> int:
    """Return the bytes that a model may have beside the KV cache of `context_len` tokens.

    `kv_bits` per cached number: 16 for f16, 8.5 for q8_0, 4.5 for q4_0.
    """
    cached = 2 * config["num_hidden_layers"] * num_kv_heads(config) * head_dim(config)
    cache_bytes = int(context_len * cached * kv_bits / 8)
    budget = int(available_bytes * _MEMORY_SHARE) - cache_bytes - _COMPUTE_BYTES
    if budget <= 0:
        raise NearfarError(
            f"{available_bytes / 1e9:.2f} GB of free memory do not even hold the cache of "
            f"{context_len} tokens; use a smaller context, or free some memory"
        )
    return budget


def parse_bytes(text: str) -> int:
    """Return the bytes that "400MB", "1.5 GiB" or "123456" mean. Raises NearfarError."""
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMG]?)(i?)B?\s*", text, re.IGNORECASE)
    if found is None:
        raise WrongUsage(f"{text!r} is no size; write it like 400MB, 1.5GiB or 123456")
    power = " KMG".index(found[2].upper() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def convert_by_plan(
    source: Path,
    target: Path,
    plan: TypePlan,
    *,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    num_threads: int = 0,
) -> Conversion:
    """Write the GGUF that a plan describes, with the importance it was measured with."""
    return convert(
        source,
        target,
        kind=plan.base_kind,
        overrides=plan.overrides,
        importance=importance,
        num_threads=num_threads,
    )


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
