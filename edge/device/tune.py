"""`nearfar doctor --tune`: measures the near model with several thread counts, keeps the best."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from edge.desk.models import find_gguf
from edge.device.cores import num_usable_cores
from edge.device.speed import measured_tokens_per_s
from offload.places import Places
from offload.settings import Settings
from offload.settings_file import change_settings

LIMIT_S = 60.0
WORTH = 1.05  # a fixed count must beat the governor by this much: it cannot yield to other programs


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, tokens per second by threads (0 is the governor), and what was kept."""

    model: str
    tokens_per_s: dict[int, float]
    num_threads: int
    config_file: str


def tune(settings: Settings, here: Places, *, limit_s: float = LIMIT_S) -> Tuned:
    """Measure for at most about `limit_s`, and write `edge.num_threads`. Raises CheckpointError."""
    path = find_gguf(settings.edge.model, here.models)
    measured: dict[int, float] = {}
    began = time.monotonic()
    for threads in _candidates():
        if measured and time.monotonic() - began > limit_s:
            break
        measured[threads] = round(measured_tokens_per_s(path, threads), 1)
    best = best_of(measured)
    change_settings(here.config_file, "edge", {"num_threads": best})
    return Tuned(
        model=Path(path).stem,
        tokens_per_s=measured,
        num_threads=best,
        config_file=str(here.config_file),
    )


def best_of(measured: dict[int, float]) -> int:
    """Return the thread count to keep: the governor's 0, unless a fixed one is clearly quicker."""
    best = max(measured, key=lambda threads: measured[threads])
    return best if measured[best] > WORTH * measured.get(0, 0.0) else 0


def _candidates() -> list[int]:
    cores = num_usable_cores()
    return sorted({0, 1, max(1, cores // 2), max(1, cores - 1), cores})
