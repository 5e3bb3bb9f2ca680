"""Durations as people write them: seconds, or numbers with units as Go and ollama write them."""

from __future__ import annotations

import math
import re

from offload.errors import SettingsError

_MOST_S = 10 * 365 * 86_400.0  # a moment that far away still has a date
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"\d{1,12}(?:\.\d{1,6})?(?:ms|s|m|h)"
_WHOLE = re.compile(rf"(?P<sign>-?)(?P<parts>(?:{_PART}){{1,4}})")
_NUMBER = re.compile(r"-?\d{1,12}(\.\d{1,6})?")


def seconds_of(written: str | float, name: str) -> float:
    """Return the seconds that "5m", "1h30m", "-1" or 300 mean; below 0 is for ever.

    Raises SettingsError that says what to write, `name` being what was to be set.
    """
    text = str(written).strip().lower()
    if _NUMBER.fullmatch(text):
        return min(float(text), _MOST_S)
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise SettingsError(
            f"{name} is {text[:40]!r}; write seconds, or a duration as in 5m, 1h30m or 30s, "
            "and -1 for ever"
        )
    parts = re.findall(r"([\d.]+)(ms|s|m|h)", found["parts"])
    total = min(_MOST_S, math.fsum(float(number) * _UNITS_S[unit] for number, unit in parts))
    return -total if found["sign"] else total
