"""Stored parts: the tensors of a file by the modules that they belong to.

Phi-3 stores query, key and value as one matrix, gate and up as another: they are taken apart, so
that one network runs every family.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from backbone.config import NetworkConfig


@dataclass(frozen=True)
class StoredPiece:
    """One tensor of a file: its name there, and what reads it: get_shape(), get_dtype(), [...]."""

    name: str
    file: str
    read: Any


Parts = Mapping[str, StoredPiece]  # what belongs to one module, by the last part of its name

_KINDS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}


def separated(
    modules: Iterable[tuple[str, Parts]], config: NetworkConfig
) -> Iterator[tuple[str, Parts]]:
    """Yield the modules with fused plain weights as those that a Network has."""
    for module, parts in modules:
        rows = rows_of(module, config)
        if rows and set(parts) <= {"weight", "bias"}:
            for name, part in rows.items():
                yield name, {k: replace(p, read=_Rows(p.read, part)) for k, p in parts.items()}
        else:
            yield module, parts


def rows_of(module: str, config: NetworkConfig) -> dict[str, slice]:
    """Return which rows of a fused module are which of a Network's; empty where it is not fused."""
    kind = next((kind for kind in _KINDS if module.endswith(f".{kind}")), None)
    if kind is None:
        return {}
    query = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    sizes = (query, kv, kv) if "qkv" in kind else (config.intermediate_size,) * 2
    before, start, found = module.removesuffix(kind), 0, {}
    for name, size in zip(_KINDS[kind], sizes, strict=True):
        found[before + name] = slice(start, start + size)
        start += size
    return found


@dataclass(frozen=True)
class _Rows:
    """Some rows of a stored tensor, read like one of their own."""

    whole: Any
    rows: slice

    def get_shape(self) -> list[int]:
        count, *rest = self.whole.get_shape()
        return [len(range(count)[self.rows]), *rest]

    def get_dtype(self) -> str:
        return str(self.whole.get_dtype())

    def __getitem__(self, index: Any) -> Any:
        return self.whole[self.rows][index]
