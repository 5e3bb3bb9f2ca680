from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.window import Pins, Window

NO_PINS = Pins(num_first=0, last_start=0, last_end=0)


def _held(window: Window) -> list[int]:
    return [token for start, end in window.kept for token in window.stream[start:end]]


def _fill(window: Window, count: int, pins: Pins = NO_PINS) -> None:
    for token in range(len(window.stream), len(window.stream) + count):
        if window.free == 0:
            assert window.evict(pins) is not None
        window.append([token])


def test_sinks_and_newest_stay_and_the_middle_goes() -> None:
    window = Window(40, num_sinks=4, block=5)
    _fill(window, 400)
    held = _held(window)
    assert held[:4] == [0, 1, 2, 3]
    assert held[4:] == list(range(400 - len(held) + 4, 400))
    assert 35 <= window.used <= 40 and window.dropped == 400 - window.used


def test_eviction_tells_where_in_the_context_the_block_was() -> None:
    window = Window(24, num_sinks=4, block=3)
    _fill(window, 24)
    context = _held(window)
    for _ in range(4):
        found = window.evict(NO_PINS)
        assert found is not None
        position, count = found
        del context[position : position + count]
        assert context == _held(window)


def test_pins_survive_an_endless_answer() -> None:
    window = Window(64, num_sinks=4, block=8)
    pins = Pins(num_first=10, last_start=30, last_end=40)
    _fill(window, 40)
    _fill(window, 1000, pins)
    assert window.holds(0, 10) and window.holds(30, 40)
    assert not window.holds(10, 30)
    assert window.holds(len(window.stream) - window.block, len(window.stream))


def test_nothing_goes_when_everything_is_pinned() -> None:
    window = Window(32, num_sinks=4, block=8)
    _fill(window, 32)
    assert window.evict(Pins.whole(32)) is None
    assert window.used == 32


def test_truncating_returns_to_an_earlier_moment() -> None:
    window = Window(20, num_sinks=2, block=4)
    _fill(window, 40)
    assert window.truncate(38) == len(_held(window))
    assert len(window.stream) == 38 and window.holds(37, 38)
    window.truncate(1)
    assert window.kept == [(0, 1)] and window.dropped == 0


def test_shared_counts_the_common_beginning() -> None:
    window = Window(20, num_sinks=2, block=4)
    window.append([5, 6, 7])
    assert window.shared([5, 6, 8]) == 2
    assert window.shared([5, 6, 7, 8]) == 3
    assert window.shared([]) == 0


def test_long_prompt_resumes_so_that_first_and_last_turn_fit() -> None:
    window = Window(100, num_sinks=4)
    pins = Pins(num_first=20, last_start=950, last_end=1000)
    resume = window.resume_at(1000, pins, room=10)
    assert resume == 930, "20 first, 70 newest, 10 free"
    assert window.resume_at(1000, Pins(num_first=20, last_start=925, last_end=1000), room=10) == 925


@settings(max_examples=200, deadline=None)
@given(
    capacity=st.integers(8, 80),
    block=st.integers(1, 70),
    sinks=st.integers(0, 4),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=12),
    first=st.integers(0, 3),
)
def test_books_always_agree(
    capacity: int, block: int, sinks: int, steps: list[tuple[bool, int]], first: int
) -> None:
    window = Window(capacity, num_sinks=sinks, block=block)
    context: list[int] = []
    pins = Pins(num_first=first, last_start=first, last_end=first)
    for grows, amount in steps:
        if not grows:
            del context[window.truncate(max(0, len(window.stream) - amount)) :]
        for token in range(len(window.stream), len(window.stream) + amount) if grows else ():
            if window.free == 0:
                position, count = window.evict(pins) or pytest.fail("nothing to evict")
                del context[position : position + count]
            window.append([token])
            context.append(token)
        assert context == _held(window)
        assert window.used + window.dropped == len(window.stream)
        assert window.used <= capacity
        assert all(a < b for a, b in window.kept)
        assert all(b < c for (_, b), (c, _) in zip(window.kept, window.kept[1:], strict=False))
