"""Whether others used the machine while something was timed, and how far the timings lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from edge.device.cores import num_usable_cores
from edge.device.cpu_load import OthersLoad

BUSY_SHARE = 0.1  # of the cores: what a desktop does by itself stays below
WIDE_SPREAD = 0.15  # of the median, from the slowest run to the quickest


class Disturbance:
    """Watches from its making on what other processes do."""

    def __init__(self, others: OthersLoad | None = None, *, num_cores: int = 0) -> None:
        self._others = others or OthersLoad()
        self._num_cores = num_cores or num_usable_cores()

    def busy_cores(self) -> float:
        """Return the cores that others kept busy, on average, since the last call."""
        return self._others() or 0.0

    def warning(self, busy_cores: float, spreads: Sequence[float]) -> str | None:
        """Return one line that says why timings are not to be trusted, None where they may be."""
        if busy_cores > BUSY_SHARE * self._num_cores:
            return (
                f"other programs kept {busy_cores:.1f} of {self._num_cores} cores busy meanwhile: "
                "the tokens/s are too low; measure again when the machine is idle"
            )
        if (widest := max(spreads, default=0.0)) > WIDE_SPREAD:
            return (
                f"repeated runs lie {widest:.0%} apart: the tokens/s are not steady; "
                "measure again when the machine is idle and cool"
            )
        return None


def spread(values: Sequence[float]) -> float:
    """Return how far the values lie apart, as a share of their median; 0 for fewer than two."""
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else 0.0
