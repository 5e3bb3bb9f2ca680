"""Engine choice: what "auto" was measured to mean for a model on this machine, kept in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from backbone.files import atomic_write

CHOICES_FILE = "engine_choices.json"  # in the cache folder
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
_KEPT = 64  # choices in the file, the newest


@dataclass(frozen=True, kw_only=True)
class Way:
    """Way to run a model: what is measured against others, and chosen."""

    dtype: DtypeName
    attention_backend: str
    fuse_operators: bool = True
    enforce_eager: bool = True
    async_scheduling: bool = False

    def __str__(self) -> str:
        return "/".join((self.dtype, self.attention_backend, *self.switched))

    @property
    def switched(self) -> list[str]:
        """What differs from the usual way of such a type and attention, in words."""
        found = {
            "operators apart": not self.fuse_operators,
            "CUDA graphs": not self.enforce_eager,
            "overlapped steps": self.async_scheduling,
        }
        return [name for name, is_so in found.items() if is_so]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What was chosen, what it was measured against, and what was left out and why."""

    way: Way
    model: str = ""  # its name
    seconds: dict[str, dict[str, float]] = {}  # by way, then by kind of step
    dropped: dict[str, str] = {}  # by way, the reason
    measured: bool = True

    def __str__(self) -> str:
        """Return it in one line."""
        way = self.way
        said = ", ".join((way.dtype, f"attention {way.attention_backend}", *way.switched))
        if not self.measured:
            return f"{said}, not measured"
        others = [
            f"{name} {mean(row) / mean(self.seconds[str(way)]):.2f}x the time"
            for name, row in self.seconds.items()
            if name != str(way)
        ]
        left = [f"{name} left out: {why}" for name, why in self.dropped.items()]
        return "; ".join([f"{said}, measured here", *others, *left])


def mean(row: Mapping[str, float]) -> float:
    """Return the geometric mean of seconds over the kinds of steps."""
    return math.exp(sum(map(math.log, row.values())) / len(row))


def read_choices(path: Path) -> dict[str, Choice]:
    """Return the choices kept in a file by what each hangs on; none where it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Choice])
    except (OSError, msgspec.MsgspecError):
        return {}


def keep_choice(path: Path, name: str, choice: Choice) -> None:
    """Keep a choice as the newest of a file."""
    known = read_choices(path)
    known.pop(name, None)
    rows = [*known.items()][-_KEPT + 1 :]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, msgspec.json.encode(dict([*rows, (name, choice)])))
