from __future__ import annotations

import pytest

from edge.device.cpu_load import Disturbance, spread


@pytest.mark.parametrize(
    ("busy", "spreads", "told"),
    [
        (0.0, [], None),
        (0.3, [0.02, 0.1], None),
        (1.0, [], "other programs kept 1.0 of 4 cores busy"),
        (0.0, [0.01, 0.4], "repeated runs lie 40% apart"),
    ],
)
def test_what_spoils_a_measurement_is_told(
    busy: float, spreads: list[float], told: str | None
) -> None:
    warning = Disturbance(num_cores=4).warning(busy, spreads)
    assert warning is None if told is None else told in (warning or "")


def test_the_load_is_that_of_the_time_between() -> None:
    seen = iter([1.5, None, 0.25])
    watch = Disturbance(lambda: next(seen), num_cores=4)  # type: ignore[arg-type]
    assert [watch.busy_cores() for _ in range(3)] == [1.5, 0.0, 0.25]


def test_spread_is_a_share_of_the_median() -> None:
    assert spread([9.0, 10.0, 12.0]) == pytest.approx(0.3)
    assert spread([5.0]) == spread([]) == 0.0
