"""Aims: what a caller may ask of the policy by the model's name (auto, auto-q95, auto-b20, ...)."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from offload.errors import RequestError

Kind = Literal["auto", "local", "cloud", "quality", "budget", "risk"]

LISTED = ("auto", "auto-local", "auto-cloud", "auto-q95", "auto-b20", "auto-w5")
_KINDS: dict[str, Kind] = {"q": "quality", "b": "budget", "w": "risk"}
_NAME = re.compile(r"auto-([qbw])(\d{1,2}|100)")


@dataclass(frozen=True)
class Aim:
    """Aim of a request; `share` is 0 to 1.

    quality: right at least `share` as often as the cloud. budget: at most `share` of the requests
    go far. risk: of the answers kept near at most `share` are wrong, as certified by calibration.
    """

    kind: Kind = "auto"
    share: float = 0.0

    def __str__(self) -> str:
        letters = {kind: letter for letter, kind in _KINDS.items()}
        if self.kind in letters:
            return f"auto-{letters[self.kind]}{round(self.share * 100)}"
        return "auto" if self.kind == "auto" else f"auto-{self.kind}"


def parse_aim(name: str, own: Collection[str] = ()) -> Aim:
    """Return what a model's name asks for; `own` are further names of plain `auto`.

    Raises RequestError that lists the names.
    """
    if name in ("", "auto") or name in own:
        return Aim()
    if name in ("auto-local", "auto-cloud"):
        return Aim("local" if name == "auto-local" else "cloud")
    found = _NAME.fullmatch(name)
    if found is None:
        raise RequestError(
            f"there is no model {name!r}; known are {', '.join((*LISTED, *own))}, "
            "with any number from 0 to 100 behind q, b and w"
        )
    return Aim(_KINDS[found[1]], int(found[2]) / 100)
