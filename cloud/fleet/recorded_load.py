"""Recorded loads: the arrivals of each second, read from the log of an endpoint, to be replayed.

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

from backbone.errors import cause
from offload.errors import SettingsError

_ASKED = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class LoadSecond(NamedTuple):
    """One second of a recording: how many requests arrived, and how long they took."""

    second: int
    requests: int
    mean_s: float  # until each of them was answered; 0 where none came


def read_log(lines: Iterable[str]) -> list[LoadSecond]:
    """Return every second from the first request to the last; lines of anything else are passed.

    Times in the log are whole seconds, so an arrival may appear one second late. Raises
    SettingsError where there is no request.
    """
    arrived: dict[int, list[float]] = {}
    for line in lines:
        entry = _request(line)
        if entry is not None:
            ended_s, took_s = entry
            arrived.setdefault(math.floor(ended_s - took_s), []).append(took_s)
    if not arrived:
        raise SettingsError('the log holds no request; write it with NEARFAR_SERVE_LOG="json"')
    first, last = min(arrived), max(arrived)
    return [
        LoadSecond(
            at - first, len(took := arrived.get(at, [])), sum(took) / len(took) if took else 0.0
        )
        for at in range(first, last + 1)
    ]


def write(path: Path, seconds: Iterable[LoadSecond]) -> None:
    """Write a recording as CSV; nothing in it tells who asked, or what."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(LoadSecond._fields)
        rows.writerows((each.second, each.requests, f"{each.mean_s:.4f}") for each in seconds)


def read(path: Path) -> list[LoadSecond]:
    """Read a recording. Raises SettingsError for a file that is none."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                LoadSecond(int(row["second"]), int(row["requests"]), float(row["mean_s"]))
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{path} is no recorded load ({cause(error)}); record it anew"
        ) from None


def _request(line: str) -> tuple[float, float] | None:
    """Return when a logged request ended, in seconds since 1970, and how long it took."""
    try:
        entry = json.loads(line)
        if entry.get("path") not in _ASKED:
            return None
        ended_s = calendar.timegm(time.strptime(entry["time"], "%Y-%m-%dT%H:%M:%SZ"))
        return float(ended_s), float(entry["seconds"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
