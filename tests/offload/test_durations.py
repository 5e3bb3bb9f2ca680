"""Durations as ollama's users write them."""

from __future__ import annotations

import pytest

from offload.durations import seconds_of
from offload.errors import SettingsError


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *[("5m", 300), ("1h30m", 5400), ("90s", 90), (0, 0), ("0", 0), (-1, -1), ("-1m", -60)],
        *[(2.5, 2.5), ("250ms", 0.25), (" 24H ", 86_400)],
        *[("999999999999h", 315_360_000), (999_999_999_999, 315_360_000)],
    ],
)
def test_durations_are_read_as_seconds(written: str | float, seconds: float) -> None:
    assert seconds_of(written, "x") == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written", ["", "5 m", "m", "five", "5d", "1e9", "nan", "inf", "5m5", "9" * 40]
)
def test_other_words_are_refused_with_what_to_write(written: str) -> None:
    with pytest.raises(SettingsError, match=r"edge\.keep_alive is .*write seconds"):
        seconds_of(written, "edge.keep_alive")
