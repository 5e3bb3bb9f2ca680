"""Memory fit: whether a model fits this device, and with which context length and KV cache type."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from backbone.errors import CheckpointError, NearfarError
from edge.llama.context import ContextParams
from edge.llama.gguf_file import check_header
from edge.llama.kv_types import CacheShape, KvTypes
from edge.llama.library import llama, log
from offload.errors import SettingsError

MB = 1_000_000
MARGIN = 0.9  # of the free memory; the rest is for whatever else runs
CACHE_SHARE = 0.25  # of the free memory, at most, when the length is ours to choose
COMFORTABLE_LEN = 4096  # tokens that are worth fewer bits before they are given up
LEAST_LEN = 256


class DoesNotFit(NearfarError):
    """Refusal of a model that the free memory does not hold; it says what would fit."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Memory need of a running model, in bytes."""

    weights_bytes: int
    cache_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return the sum."""
        return self.weights_bytes + self.cache_bytes + self.compute_bytes


@dataclass(frozen=True, kw_only=True)
class ContextFit:
    """Context fit: the context to run a model with."""

    num_tokens: int
    kv_types: KvTypes


def choose(
    name: str,
    shape: CacheShape,
    *,
    weights_bytes: int,
    compute_bytes: Callable[[int], int],
    free_bytes: int,
    trained_len: int,
    asked_len: int = 0,
    kv_cache_dtype: str = "auto",
    sliding: bool = True,
) -> ContextFit:
    """Choose the context's length and type: f16, and fewer bits only when memory asks for it.

    `asked_len` 0 leaves the length open: the model's own, as far as a quarter of the free memory
    goes. `compute_bytes` tells what a context of some length computes in. Raises DoesNotFit, with
    what would fit, when nothing does; SettingsError for a type that this model cannot have.
    """
    room = int(free_bytes * MARGIN) - weights_bytes
    kinds = _kinds(shape, kv_cache_dtype, sliding=sliding)
    if asked_len:
        candidates = [(asked_len, kind, room) for kind in kinds]
    else:
        candidates = list(_candidates(trained_len, kinds, room, int(free_bytes * CACHE_SHARE)))
    for length, kind, budget in candidates:
        held = shape.cache_bytes(kind, length)
        if held <= budget and held + compute_bytes(length) <= room:
            return ContextFit(num_tokens=length, kv_types=kind)
    length, kind, _ = candidates[-1]
    room -= compute_bytes(length)
    raise DoesNotFit(_refusal(name, shape, kind, length, room, weights_bytes))


def _candidates(
    trained_len: int, kinds: list[KvTypes], room: int, share: int
) -> Iterator[tuple[int, KvTypes, int]]:
    """Yield length, type and bytes for the cache, best first: length goes before precision."""
    comfortable = min(COMFORTABLE_LEN, trained_len)
    for length in _lengths(trained_len):
        if length >= comfortable:
            yield length, kinds[0], min(share, room)
    for length in _lengths(comfortable):
        for kind in kinds:
            yield length, kind, room


def _kinds(shape: CacheShape, name: str, *, sliding: bool) -> list[KvTypes]:
    """Return the types to try, best first: the largest of little loss, down to 4 bits.

    Eight bits are read at f16's speed as keys only, so those come first; where a model's keys are
    uneven they are what loses, so there the values come first. Keys stay f16 where blocked ones
    could not slide.
    """
    if name != "auto":
        return [_named_kind(shape, name, sliding=sliding)]
    names = ["f16", "f16/q8_0" if shape.keys_are_uneven else "q8_0/f16", "q8_0", "k8v4", "q4_0"]
    if sliding and not shape.slides(KvTypes.parse("q8_0")):
        names = ["f16", "f16/q8_0", "f16/q4_0"]
    return [kind for kind in map(KvTypes.parse, names) if shape.allows(kind)]


def _named_kind(shape: CacheShape, name: str, *, sliding: bool) -> KvTypes:
    kind = KvTypes.parse(name)
    if not shape.allows(kind):
        raise SettingsError(
            f"kv_cache_dtype {name} needs heads of a multiple of 32 numbers and this model's have "
            f"{shape.k_head}; choose f16 or auto"
        )
    if sliding and not shape.slides(kind):
        raise SettingsError(
            f"kv_cache_dtype {name} cannot slide with heads of {shape.k_head} numbers; "
            f"choose auto or f16/{kind.v}, or set window to 0"
        )
    return kind


def _lengths(trained_len: int) -> Iterator[int]:
    length = trained_len
    while length >= min(LEAST_LEN, trained_len):
        yield length
        length //= 2


def _refusal(
    name: str, shape: CacheShape, kind: KvTypes, length: int, room: int, weights_bytes: int
) -> str:
    fits = _longest(shape, kind, room)
    if fits >= LEAST_LEN:
        return f"{name} has no room for {length} tokens here; set max_model_len to {fits} or less"
    lacking = shape.cache_bytes(kind, length) - room
    smaller = weights_bytes - lacking
    advice = f", or choose a model file below {smaller // MB} MB" if smaller > MB else ""
    return f"{name} needs {lacking / MB:.0f} MB more memory than is free; close programs{advice}"


def _longest(shape: CacheShape, kind: KvTypes, room: int) -> int:
    """Return how many tokens fit, in steps of 256."""
    return int(room / (shape.cache_bytes(kind, 1024) / 1024)) // 256 * 256


def measure(path: Path, params: ContextParams) -> MemoryNeed:
    """Ask llama.cpp what a model would take, without taking it.

    Raises CheckpointError for a file that cannot be run.
    """
    check_header(path)
    lib = llama()
    model_params = lib.llama_model_default_params()
    model_params.no_alloc, model_params.load_mode = True, lib.LLAMA_LOAD_MODE_NONE
    with log.listening() as lines:
        model = lib.llama_model_load_from_file(os.fsencode(path), model_params)
        if not model:
            raise CheckpointError(f"{path} cannot be measured ({log.reason()}); fetch it again")
        try:
            weights = int(lib.llama_model_size(model))
            lines.clear()
            context = lib.llama_init_from_model(model, params.to_llama())
            if not context:
                raise NearfarError(f"{path} cannot be measured ({log.reason()}); choose f16")
            lib.llama_free(context)
        finally:
            lib.llama_model_free(model)
    return MemoryNeed(
        weights_bytes=weights,
        cache_bytes=_sizes(lines, r"\w+: size =\s+([\d.]+) MiB \(\s*\d+ cells"),
        compute_bytes=_sizes(lines, r"(?:compute|output) buffer size =\s+([\d.]+) MiB"),
    )


def _sizes(lines: list[str], pattern: str) -> int:
    found = (re.search(pattern, line) for line in lines)
    return round(sum(float(match.group(1)) for match in found if match) * 1024 * 1024)
