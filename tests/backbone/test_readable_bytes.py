"""Bytes in words keep three figures, however few or many there are."""

from __future__ import annotations

import pytest

from backbone.terminal_text import readable_bytes


@pytest.mark.parametrize(
    ("num_bytes", "told"),
    [(0, "0 B"), (999, "999 B"), (2_110_000, "2.11 MB"), (48_000, "48 kB"), (7.25e9, "7.25 GB")],
)
def test_a_size_has_the_unit_that_fits(num_bytes: float, told: str) -> None:
    assert readable_bytes(num_bytes) == told
