"""Tuning (`nearfar doctor --tune`): measures the near model for a minute, keeps what is quicker.

One setting after another is tried on top of what was best before: how the KV cache is stored, after
a long prompt, since its types differ only there; then threads and prompt batch, after a shorter
one. The whole is then measured against the defaults once more, and only kept if it is still
quicker, and if the defaults took as long as at first: a device that others keep busy cannot tell. A
window is kept where a full context would halve the speed all the same. What a person has set is
left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path

import msgspec

from edge.device.cpu_load import num_usable_cores
from edge.llama.speed import Speed, measured_speed
from edge.models.local_models import find_gguf
from edge.near.edge_factory import llama_options
from offload.config.places import Places
from offload.config.settings import EdgeSettings, Settings
from offload.config.settings_reading import is_said
from offload.config.settings_sources import change_settings, read_remarks

LIMIT_S = 60.0
WORTH = 1.05  # a setting must beat the default by this much: the governor yields to other programs
STEADY = 1.25  # the defaults, measured at the beginning and the end, may differ by this much
SLOWEST = 2.0  # times as long as its first token the last one of a full context may take
LONG_TOKENS, PROMPT_TOKENS, SHORT_TOKENS = 4096, 512, 32
LONG_SHARE = 8  # reading the long prompt once may take this part of the time
TUNED = ("kv_cache_dtype", "num_threads", "max_num_batched_tokens", "window")
MEASURED = "measured "  # how the remark of a tuned setting begins

Measure = Callable[[Settings, int], Speed]
Value = int | str


class TuningTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Tuning trial: the settings that differed from the defaults, and their speed."""

    settings: dict[str, Value]
    prompt_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    turn_s: float  # of a turn: the prompt read and 128 tokens written


class TuningResult(msgspec.Struct, frozen=True, kw_only=True):
    """Tuning result: what was measured, what was kept, and the reason beside it in the file.

    `is_whole` is false where the time ran out before every setting had been tried; `left_alone`
    are settings that a person chose.
    """

    model: str
    trials: list[TuningTrial]
    kept: dict[str, Value]
    reason: str
    left_alone: list[str]
    is_whole: bool
    config_file: str


def tune(
    settings: Settings,
    here: Places,
    *,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
    measure: Measure | None = None,
) -> TuningResult:
    """Measure for about `limit_s`, and write what is quicker. Raises CheckpointError."""
    path = find_gguf(settings.edge.model, here.models)
    free = _free_to_tune(here.config_file)
    search = TuningSearch(settings, free, measure or _measure(path, here), clock, limit_s)
    kept, reason = search.run()
    # What an earlier tuning kept, and this one does not, has its default again.
    values = {name: kept.get(name) for name in free}
    change_settings(here.config_file, "edge", values, remark=f"{MEASURED}{date.today()}: {reason}")
    return TuningResult(
        model=Path(path).stem,
        trials=search.trials,
        kept=kept,
        reason=reason,
        left_alone=[name for name in TUNED if name not in free],
        is_whole=search.is_whole,
        config_file=str(here.config_file),
    )


def _free_to_tune(config_file: Path) -> list[str]:
    remarks = read_remarks(config_file, "edge")
    in_file = {name for name, said in remarks.items() if not said.startswith(MEASURED)}
    in_environment = {name for name in TUNED if is_said(Path(os.devnull), "edge", name)}
    return [name for name in TUNED if name not in in_file | in_environment]


def _measure(path: Path, here: Places) -> Measure:
    def measure(settings: Settings, prompt_tokens: int) -> Speed:
        options = replace(llama_options(path, settings, here), session_folder=None)
        return measured_speed(path, options, prompt_tokens)

    return measure


def candidates() -> dict[str, list[Value]]:
    """Return what is tried beside the defaults; types that would cost quality are not."""
    cores = num_usable_cores()
    return {
        "kv_cache_dtype": ["f16"],  # what "auto" is unless memory is short
        "num_threads": sorted({1, max(1, cores // 2), max(1, cores - 1), cores}),
        "max_num_batched_tokens": [128, 256, 1024],
    }


class TuningSearch:
    """Tuning search: tries settings one after another, within its time."""

    def __init__(
        self,
        settings: Settings,
        free: Iterable[str],
        measure: Measure,
        clock: Callable[[], float],
        limit_s: float,
    ) -> None:
        self._free = list(free)
        defaults = {name: getattr(EdgeSettings(), name) for name in self._free}
        self._plain = replace(settings, edge=replace(settings.edge, **defaults))
        self._measure, self._clock = measure, clock
        self._began_s, self._limit_s = clock(), limit_s
        self._prompt_tokens = PROMPT_TOKENS
        self.trials: list[TuningTrial] = []
        self.is_whole = True

    def run(self) -> tuple[dict[str, Value], str]:
        """Return what to keep, and why in a few words."""
        short = self._timed({}, SHORT_TOKENS)
        # A slow device reads less, so that a dozen trials of two prompts each fit the time.
        affordable = int(short.prefill_tokens_per_s * self._limit_s)
        self._prompt_tokens = max(SHORT_TOKENS, min(PROMPT_TOKENS, affordable // 40))
        long_tokens = max(self._prompt_tokens, min(LONG_TOKENS, affordable // LONG_SHARE))
        default = self._timed({}, self._prompt_tokens)
        cache, long = self._climb({}, ["kv_cache_dtype"], self._timed({}, long_tokens))
        best, speed = self._climb(cache, ["num_threads", "max_num_batched_tokens"], default)
        again = self._timed({}, self._prompt_tokens)
        if not 1 / STEADY < again.turn_s / default.turn_s < STEADY:
            return {}, "other programs keep this device too busy to tell; tune it when it is idle"
        if best and best != cache:
            speed = self._timed(best, self._prompt_tokens)
            best = best if speed.turn_s * WORTH < again.turn_s else cache
        return self._told(best, short, long, again.turn_s / speed.turn_s)

    def _told(
        self, best: dict[str, Value], short: Speed, long: Speed, ratio: float
    ) -> tuple[dict[str, Value], str]:
        window = quick_window(short, long) if "window" in self._free else None
        reasons = []
        if set(best) - {"kv_cache_dtype"}:
            reasons.append(f"{ratio - 1:.0%} quicker than the defaults")
        if "kv_cache_dtype" in best:
            reasons.append("a long prompt is read and answered more quickly")
        if window:
            best = {**best, "window": window}
            reasons.append("a full context would halve the speed")
        return best, "; ".join(reasons) or "the defaults are as quick"

    def _climb(
        self, best: dict[str, Value], names: Iterable[str], speed: Speed
    ) -> tuple[dict[str, Value], Speed]:
        """Try the values of settings in turn, after a prompt as long as that of `speed`."""
        longest, tried_tokens = speed.max_model_len, speed.prompt_tokens
        for name in names:
            found: Value | None = None
            for value in self._values(name, speed):
                if self._clock() - self._began_s > self._limit_s:
                    self.is_whole = False
                    return best, speed
                tried = self._timed({**best, name: value}, tried_tokens)
                # A KV cache that takes more room must not make the context shorter.
                fits = tried.max_model_len >= longest
                if fits and tried.turn_s * WORTH < speed.turn_s:
                    found, speed = value, tried
            best = best if found is None else {**best, name: found}
        return best, speed

    def _values(self, name: str, speed: Speed) -> list[Value]:
        """Return what is worth trying: nothing that a person set, nor what is in use already."""
        values = candidates()[name] if name in self._free else []
        return [value for value in values if value != getattr(speed, name, None)]

    def _timed(self, values: Mapping[str, Value], prompt_tokens: int) -> Speed:
        edge = replace(self._plain.edge, **dict(values))  # type: ignore[arg-type]
        speed = self._measure(replace(self._plain, edge=edge), prompt_tokens)
        self.trials.append(
            TuningTrial(
                settings=dict(values),
                prompt_tokens=speed.prompt_tokens,
                prefill_tokens_per_s=round(speed.prefill_tokens_per_s, 1),
                decode_tokens_per_s=round(speed.decode_tokens_per_s, 1),
                turn_s=round(speed.turn_s, 3),
            )
        )
        return speed


def quick_window(short: Speed, long: Speed) -> int | None:
    """Return the newest tokens to keep so that none takes twice as long as the first one.

    A step's time grows evenly with the tokens it looks back on: two speeds, after a short and a
    long prompt, tell how steeply. None where all of the context is quick enough, or where the two
    are too close to tell.
    """
    apart = long.prompt_tokens - short.prompt_tokens
    if apart < 4 * short.prompt_tokens or not short.decode_tokens_per_s:
        return None
    first_s, last_s = 1 / short.decode_tokens_per_s, 1 / max(long.decode_tokens_per_s, 1e-9)
    slope = (last_s - first_s) / apart
    if slope <= 0:
        return None
    base_s = max(first_s - slope * short.prompt_tokens, 0.0)
    quick = int((SLOWEST - 1) * base_s / slope) // 256 * 256
    return max(512, quick) if max(512, quick) < long.max_model_len else None
