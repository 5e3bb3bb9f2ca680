"""Auto choice: what "auto" means on this machine for this model, measured once and kept.

Each way that can serve the model runs the same steps as the plain network in float32. What raises
or differs by more than its bound is dropped, with its reason; of the rest the quickest is taken.
"""

from __future__ import annotations

import hashlib
import logging
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.errors import NearfarError
from backbone.files import atomic_write
from backbone.packed_linear import packs_bfloat16
from engine.torch.attention import BACKENDS, refusal
from engine.torch.kv.kv_cache import KVCache
from engine.torch.options import DtypeName, EngineOptions
from engine.torch.step_timing import (
    KINDS,
    SampleWeights,
    TimedWay,
    in_turns,
    one_thread,
    reference_logits,
    sample_config,
)
from quantize.model_files import ModelFiles

_log = logging.getLogger(__name__)

CHOICES_FILE = "engine_choices.json"  # in the cache folder
BUDGET_S = 20.0  # of measuring
_WORTH_BYTES = 64 << 20  # of weights in float32; less lies in the caches, where nothing is gained
# Of the logits, relative to the plain network in float32: bfloat16 keeps 8 bits of each product.
_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_NAMES: dict[torch.dtype, DtypeName] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
_KEPT = 64  # choices in the file, the newest


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen, what it was measured against, and what was left out and why."""

    dtype: DtypeName
    attention_backend: str
    seconds: dict[str, dict[str, float]] = {}  # by way, then by kind of step
    dropped: dict[str, str] = {}  # by way, the reason
    measured: bool = True

    def __str__(self) -> str:
        """Return it in one line."""
        said = f"{self.dtype}, attention {self.attention_backend}"
        if not self.measured:
            return f"{said}, not measured"
        others = [
            f"{name} {_mean(row) / _mean(self.seconds[self._way]):.2f}x the time"
            for name, row in self.seconds.items()
            if name != self._way
        ]
        left = [f"{name} left out: {why}" for name, why in self.dropped.items()]
        return "; ".join([f"{said}, measured here", *others, *left])

    @property
    def _way(self) -> str:
        return f"{self.dtype}/{self.attention_backend}"


@dataclass(frozen=True)
class _Way:
    dtype: DtypeName
    attention_backend: str

    def __str__(self) -> str:
        return f"{self.dtype}/{self.attention_backend}"

    def applied(self, options: EngineOptions) -> EngineOptions:
        return replace(options, dtype=self.dtype, attention_backend=self.attention_backend)


def settled(
    files: ModelFiles, options: EngineOptions, kept_in: Path
) -> tuple[EngineOptions, Choice]:
    """Return the options with "auto" settled: as kept in a file, or measured now and kept there.

    Where one thing alone can be chosen, or the model is small, nothing is measured.
    """
    config = options.as_run(files.network_config())
    ways, dropped = _ways(files, config, options)
    if len(ways) == 1:
        only = ways[0]
        choice = Choice(
            dtype=only.dtype,
            attention_backend=only.attention_backend,
            dropped=dropped,
            measured=False,
        )
        return only.applied(options), choice
    name = _name(config, options, ways)
    choice = _read(kept_in).get(name) or _measured_and_kept(
        config, options, ways, dropped, kept_in, name
    )
    return replace(options, dtype=choice.dtype, attention_backend=choice.attention_backend), choice


def _ways(
    files: ModelFiles, config: NetworkConfig, options: EngineOptions
) -> tuple[list[_Way], dict[str, str]]:
    """Return what can serve the model, the default first, and what cannot and why.

    With several processes there is the default alone, as all must choose alike.
    """
    default = _NAMES[options.torch_dtype()]
    dtypes: list[DtypeName] = [default]
    if options.tensor_parallel_size > 1:
        return [_Way(default, options.attention_backend)], {}
    is_small = files.weight_bytes(torch.float32) < _WORTH_BYTES
    if options.dtype == "auto" and not is_small and options.torch_device().type == "cpu":
        # What was stored in more bits keeps them.
        is_stored = files.quantization_name() not in ("float32", "f32", "float16", "f16")
        if is_stored and not files.quantization_config() and packs_bfloat16():
            dtypes.append("bfloat16")
    if options.attention_backend != "auto":
        return [_Way(dtype, options.attention_backend) for dtype in dtypes], {}
    if options.torch_device().type == "cpu":
        # The others need a GPU, or are there for tests.
        return [_Way(dtype, "torch") for dtype in dtypes], {}
    ways, dropped = [], {}
    cache = KVCache(
        config, 1, options.block_size, device=options.torch_device(), dtype=options.cache_dtype()
    )
    for name, backend in BACKENDS.items():
        if reason := refusal(backend, config, cache, options.torch_dtype()):
            dropped[name] = f"it {reason.partition(';')[0]}"
        elif name == "torch" or not is_small:
            ways.append(_Way(default, name))
    return ways, dropped


def _measured_and_kept(
    config: NetworkConfig,
    options: EngineOptions,
    ways: Sequence[_Way],
    dropped: Mapping[str, str],
    kept_in: Path,
    name: str,
) -> Choice:
    choice, is_sure = measure(config, options, ways, dropped)
    _log.info("auto: %s", choice)
    if is_sure:
        rows = [*_read(kept_in).items()][-_KEPT + 1 :]
        kept_in.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(kept_in, msgspec.json.encode(dict([*rows, (name, choice)])))
    return choice


def measure(
    config: NetworkConfig,
    options: EngineOptions,
    ways: Sequence[_Way],
    dropped: Mapping[str, str],
) -> tuple[Choice, bool]:
    """Return the quickest way, by the geometric mean over the kinds of steps, and if it is sure.

    Where the time was used up before every kind was measured it is the first, and not sure.
    """
    with one_thread():
        return _measure(sample_config(config), options, ways, dropped)


def _measure(
    sample: NetworkConfig,
    options: EngineOptions,
    ways: Sequence[_Way],
    dropped: Mapping[str, str],
) -> tuple[Choice, bool]:
    until_s = time.monotonic() + BUDGET_S
    weights = SampleWeights(sample, options.torch_device())
    expected = reference_logits(weights, sample)
    found: dict[str, tuple[_Way, TimedWay]] = {}
    left = dict(dropped)
    for way in ways:
        try:
            timed = TimedWay(weights, sample, way.applied(options))
            reason = _difference(timed.logits(), expected, way.applied(options).torch_dtype())
        # A backend may fail in any way of its own; it is left out and named.
        except Exception as error:
            said = str(error) if isinstance(error, NearfarError) else type(error).__name__
            reason = f"it raised {said}"
        if reason is None:
            found[str(way)] = (way, timed)
        else:
            left[str(way)] = reason
    seconds: dict[str, dict[str, float]] = {name: {} for name in found}
    for kind, row in in_turns([timed for _, timed in found.values()], until_s):
        for name, value in zip(found, row, strict=True):
            seconds[name][str(kind)] = value
    is_sure = bool(seconds) and all(len(row) == len(KINDS) for row in seconds.values())
    chosen = ways[0]
    if is_sure:
        chosen, _ = found[min(seconds, key=lambda name: _mean(seconds[name]))]
    choice = Choice(
        dtype=chosen.dtype,
        attention_backend=chosen.attention_backend,
        seconds=seconds if is_sure else {},
        dropped=left,
        measured=is_sure,
    )
    return choice, is_sure


def _difference(found: Tensor, expected: Tensor, dtype: torch.dtype) -> str | None:
    """Return why logits are too far from the reference's, None where they are not."""
    off = float((found.to(expected.device) - expected).norm() / expected.norm())
    bound = _BOUNDS[dtype]
    return None if off <= bound else f"its logits are off by {off:.2g}, above {bound:g}"


def _mean(row: Mapping[str, float]) -> float:
    return math.exp(sum(map(math.log, row.values())) / len(row))


def _read(kept_in: Path) -> dict[str, Choice]:
    try:
        return msgspec.json.decode(kept_in.read_bytes(), type=dict[str, Choice])
    except (OSError, msgspec.MsgspecError):
        return {}


def _name(config: NetworkConfig, options: EngineOptions, ways: Sequence[_Way]) -> str:
    """Return what a choice hangs on: machine, torch, the model's shape, options, and the ways."""
    device = options.torch_device()
    machine = [platform.processor() or platform.machine(), torch.get_num_threads()]
    if device.type == "cuda":
        machine = [torch.cuda.get_device_name(device), str(torch.version.cuda)]
    shape = {**asdict(config), "full_layers": sorted(config.full_layers)}
    shape |= {"dense_layers": sorted(config.dense_layers), "eos_token_ids": ()}
    fixed = {**asdict(options), "tokenizer": "", "profile": ""}
    said = repr([machine, torch.__version__, torch.backends.cpu.get_cpu_capability(), shape])
    return hashlib.sha256((said + repr([fixed, list(map(str, ways))])).encode()).hexdigest()[:32]
