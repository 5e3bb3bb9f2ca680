"""A load as it was: from the log of an endpoint to the arrivals of each second, to be played again.

The log is what `serve.log = "json"` writes: when each request ended, and how long it took.
"""

from __future__ import annotations

import calendar
import csv
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from backbone.error_causes import cause
from offload.errors import SettingsError

_ASKED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class Second(NamedTuple):
    """What arrived within one second of a recording."""

    second: int
    requests: int
    mean_s: float  # until each of them was answered; 0 where none came


def read_log(lines: Iterable[str]) -> list[Second]:
    """Return every second from the first request to the last; lines of anything else are passed.

    Times in the log are whole seconds, so an arrival may be told one second late. Raises
    SettingsError where there is no request.
    """
    arrived: dict[int, list[float]] = {}
    for line in lines:
        told = _request(line)
        if told is not None:
            ended_s, took_s = told
            arrived.setdefault(math.floor(ended_s - took_s), []).append(took_s)
    if not arrived:
        raise SettingsError('the log holds no request; write it with NEARFAR_SERVE_LOG="json"')
    first, last = min(arrived), max(arrived)
    return [
        Second(at - first, len(took := arrived.get(at, [])), sum(took) / len(took) if took else 0.0)
        for at in range(first, last + 1)
    ]


def write(path: Path, seconds: Iterable[Second]) -> None:
    """Keep a recording as CSV; nothing in it tells who asked, or what."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(Second._fields)
        rows.writerows((each.second, each.requests, f"{each.mean_s:.4f}") for each in seconds)


def read(path: Path) -> list[Second]:
    """Return a recording that was kept. Raises SettingsError for a file that is none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Second(int(row["second"]), int(row["requests"]), float(row["mean_s"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{path} is no recorded load ({cause(error)}); record it anew"
        ) from None


def _request(line: str) -> tuple[float, float] | None:
    """Return when a logged request ended, in seconds since 1970, and how long it took."""
    try:
        told = json.loads(line)
        if told.get("path") not in _ASKED:
            return None
        ended_s = calendar.timegm(time.strptime(told["time"], "%Y-%m-%dT%H:%M:%SZ"))
        return float(ended_s), float(told["seconds"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
