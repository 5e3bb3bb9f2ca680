"""Auto choice: what "auto" means on this machine for this model, measured once and kept.

Each way that can serve the model runs the same steps as the plain network in float32. What raises
or differs by more than its bound is dropped, with its reason; of types and attentions the quickest
is taken, then each switch that makes it quicker still. Nothing is taken that makes any kind of
step slower than the usual way.
"""

from __future__ import annotations

import hashlib
import logging
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.errors import NearfarError
from backbone.packed_linear import packs_bfloat16
from engine.engine_choice import Choice, DtypeName, Way, keep_choice, mean, read_choices
from engine.torch.attention import BACKENDS, refusal
from engine.torch.kv.kv_cache import KVCache
from engine.torch.options import EngineOptions
from engine.torch.step_timing import (
    SampleWeights,
    TimedWay,
    TimingBudget,
    in_turns,
    one_thread,
    reference_logits,
    sample_config,
    step_kinds,
)
from quantize.model_files import ModelFiles

_log = logging.getLogger(__name__)

BUDGET_S = 20.0  # of measuring
_WORTH_BYTES = 64 << 20  # of weights in float32; less lies in the caches, where nothing is gained
# Of the logits, relative to the plain network in float32: bfloat16 keeps 8 bits of each product.
_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_NAMES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
# Of the usual way's time: what must be gained in the mean, and what noise may add in one kind.
_GAINED, _LOST = 0.97, 1.03
_SWITCHED: dict[str, dict[str, Any]] = {
    "fuse_operators": {"fuse_operators": False},
    "enforce_eager": {"enforce_eager": False},
    "async_scheduling": {"async_scheduling": True},
}


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Candidates: types and attentions, the usual one first, and switches to try on the best of
    them; `dropped` says what cannot be tried and why.
    """

    ways: list[Way]
    switches: list[str] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def is_one(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.ways) == 1 and not self.switches


def settled(
    files: ModelFiles, options: EngineOptions, kept_in: Path
) -> tuple[EngineOptions, Choice]:
    """Return the options with "auto" settled: as kept in a file, or measured now and kept there.

    Where one thing alone can be chosen, or the model is small, nothing is measured.
    """
    config = options.as_run(files.network_config())
    candidates = candidates_for(files, config, options)
    if candidates.is_one:
        choice = Choice(way=candidates.ways[0], dropped=candidates.dropped, measured=False)
        return applied(choice.way, options), choice
    name = _name(config, options, candidates)
    choice = read_choices(kept_in).get(name) or Choice(way=candidates.ways[0], measured=False)
    if not choice.measured:
        found, is_sure = measure(config, options, candidates)
        choice = msgspec.structs.replace(found, model=files.path.resolve().name)
        _log.info("auto: %s", choice)
        if is_sure:
            keep_choice(kept_in, name, choice)
    return applied(choice.way, options), choice


def applied(way: Way, options: EngineOptions) -> EngineOptions:
    """Return the options of an engine that runs so."""
    return replace(
        options,
        dtype=way.dtype,
        attention_backend=way.attention_backend,
        fuse_operators=way.fuse_operators,
        enforce_eager=way.enforce_eager,
        async_scheduling=way.async_scheduling,
    )


def candidates_for(files: ModelFiles, config: NetworkConfig, options: EngineOptions) -> Candidates:
    """Return what can serve a model under these options.

    With several processes there is the usual way alone, as all must choose alike.
    """
    default = _NAMES[options.torch_dtype()]
    usual = Way(
        dtype=default,
        attention_backend=options.attention_backend,
        fuse_operators=options.fuses,
        enforce_eager=not options.records_graphs,
        async_scheduling=options.overlaps,
    )
    is_small = files.weight_bytes(torch.float32) < _WORTH_BYTES
    if options.tensor_parallel_size > 1:
        return Candidates(ways=[usual])
    ways, dropped = _attentions(config, options, usual, is_small)
    if options.dtype == "auto" and not is_small and options.torch_device().type == "cpu":
        # What was stored in more bits keeps them.
        is_stored = files.quantization_name() not in ("float32", "f32", "float16", "f16")
        if is_stored and not files.quantization_config() and packs_bfloat16():
            ways += [replace(way, dtype="bfloat16") for way in ways]
    if is_small:
        return Candidates(ways=ways, dropped=dropped)
    switches, more = _switches(files, config, options)
    return Candidates(ways=ways, switches=switches, dropped=dropped | more)


def _attentions(
    config: NetworkConfig, options: EngineOptions, usual: Way, is_small: bool
) -> tuple[list[Way], dict[str, str]]:
    if options.attention_backend != "auto":
        return [usual], {}
    usual = replace(usual, attention_backend="torch")
    if options.torch_device().type == "cpu" or is_small:
        # The others need a GPU, or are there for tests.
        return [usual], {}
    ways, dropped = list[Way](), dict[str, str]()
    cache = KVCache(
        config, 1, options.block_size, device=options.torch_device(), dtype=options.cache_dtype()
    )
    for name, backend in BACKENDS.items():
        if reason := refusal(backend, config, cache, options.torch_dtype()):
            dropped[name] = f"it {reason.partition(';')[0]}"
        else:
            ways.append(replace(usual, attention_backend=name))
    return ways, dropped


def _switches(
    files: ModelFiles, config: NetworkConfig, options: EngineOptions
) -> tuple[list[str], dict[str, str]]:
    """Return the switches that nobody has set and that may gain, and why others cannot."""
    unset = [name for name in _SWITCHED if getattr(options, name) is None]
    dropped: dict[str, str] = {}
    if files.quantization_config() and "fuse_operators" in unset:
        unset.remove("fuse_operators")  # each coded matrix is a product of its own either way
    if options.torch_device().type == "cpu":
        dropped = {
            "CUDA graphs": "they need a GPU",
            "overlapped steps": "a CPU has no queue to plan behind",
        }
        unset = [name for name in unset if name == "fuse_operators"]
    elif config.num_experts and not options.fuses and "enforce_eager" in unset:
        unset.remove("enforce_eager")
        dropped["CUDA graphs"] = "a mixture of experts is recorded only with fuse_operators"
    return unset, dropped


def measure(
    config: NetworkConfig, options: EngineOptions, candidates: Candidates
) -> tuple[Choice, bool]:
    """Return the quickest way, by the geometric mean over the kinds of steps, and if it is sure.

    Where the time was used up before every kind was measured it is the usual one, and not sure.
    """
    with one_thread():
        trial = _Trial(sample_config(config), options, candidates)
        way = trial.quickest(candidates.ways)
        for switch in candidates.switches if trial.seconds else ():
            way = trial.quickest([way, replace(way, **_SWITCHED[switch])])
    is_sure = bool(trial.seconds)
    choice = Choice(way=way, seconds=trial.seconds, dropped=trial.dropped, measured=is_sure)
    return choice, is_sure


class _Trial:
    """Trial of ways to run a piece of a model: the seconds of each, and why others were dropped."""

    def __init__(
        self, sample: NetworkConfig, options: EngineOptions, candidates: Candidates
    ) -> None:
        self._sample, self._options = sample, options
        self._weights = SampleWeights(sample, options.torch_device())
        self._expected = reference_logits(self._weights, sample)
        self._kinds = step_kinds(options.max_num_seqs)
        self._budget = TimingBudget(BUDGET_S)
        self._opened: dict[str, TimedWay] = {}
        self._most = math.inf if options.torch_device().type == "cuda" else _LOST
        self.dropped = dict(candidates.dropped)
        self.seconds: dict[str, dict[str, float]] = {}  # of those measured in every kind

    def quickest(self, ways: Sequence[Way]) -> Way:
        """Return the first of some ways, or one that proves quicker in the same turns."""
        running = [way for way in ways if self._opens(way)]
        if len(running) < len(ways) and len(running) <= 1 and self.seconds:
            return ways[0]
        rows: list[dict[str, float]] = [{} for _ in running]
        opened = [self._opened[str(way)] for way in running]
        for kind, found in in_turns(opened, self._kinds, self._budget):
            for row, seconds in zip(rows, found, strict=True):
                row[str(kind)] = seconds
        if not running or len(rows[0]) < len(self._kinds):
            self.dropped |= {str(way): "no time was left to measure it" for way in running[1:]}
            return ways[0]
        self.seconds |= {str(way): row for way, row in zip(running, rows, strict=True)}
        both = list(zip(running, rows, strict=True))
        if running[0] == ways[0]:
            both = [both[0], *(each for each in both[1:] if self._gains(each[1], rows[0]))]
        return min(both, key=lambda each: mean(each[1]))[0]

    def _gains(self, row: dict[str, float], usual: dict[str, float]) -> bool:
        loses = any(row[kind] > self._most * usual[kind] for kind in row)
        return mean(row) <= _GAINED * mean(usual) and not loses

    def _opens(self, way: Way) -> bool:
        """Whether a way runs and computes what the reference does."""
        if str(way) in self._opened:
            return True
        try:
            given = applied(way, self._options)
            opened = TimedWay(self._weights, self._sample, given)
            reason = _difference(opened.logits(), self._expected, given.torch_dtype())
        # A backend may fail in any way of its own; it is left out and named.
        except Exception as error:
            said = str(error) if isinstance(error, NearfarError) else type(error).__name__
            reason = f"it raised {said}"
        if reason is None:
            self._opened[str(way)] = opened
        else:
            self.dropped[str(way)] = reason
        return reason is None


def _difference(found: Tensor, expected: Tensor, dtype: torch.dtype) -> str | None:
    """Return why logits are too far from the reference's, None where they are not."""
    off = float((found.to(expected.device) - expected).norm() / expected.norm())
    bound = _BOUNDS[dtype]
    return None if off <= bound else f"its logits are off by {off:.2g}, above {bound:g}"


def _name(config: NetworkConfig, options: EngineOptions, candidates: Candidates) -> str:
    """Return what a choice hangs on: machine, torch, the model's shape, options, and the ways."""
    device = options.torch_device()
    machine = [platform.processor() or platform.machine(), torch.get_num_threads()]
    if device.type == "cuda":
        machine = [torch.cuda.get_device_name(device), str(torch.version.cuda)]
    shape = {**asdict(config), "full_layers": sorted(config.full_layers)}
    shape |= {"dense_layers": sorted(config.dense_layers), "eos_token_ids": ()}
    fixed = {**asdict(options), "tokenizer": "", "profile": ""}
    said = repr([machine, torch.__version__, torch.backends.cpu.get_cpu_capability(), shape])
    ways = [*map(str, candidates.ways), *candidates.switches]
    return hashlib.sha256((said + repr([fixed, ways])).encode()).hexdigest()[:32]
