from __future__ import annotations

from itertools import islice

from offload.link.backoff import Backoff, Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_waits_double_up_to_the_limit() -> None:
    waits = islice(Backoff(1.0, 5.0, draw=lambda: 1.0), 5)
    assert list(waits) == [1, 2, 4, 5, 5]


def test_waits_are_drawn_from_their_upper_half() -> None:
    assert next(iter(Backoff(1.0, draw=lambda: 0.0))) == 0.5
    assert len(set(islice(Backoff(), 5))) == 5


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(max_failures=2, clock=Clock())
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    assert breaker.try_now()
    breaker.failed()
    assert breaker.is_open and not breaker.try_now()


def test_half_open_lets_one_probe_through_and_its_fate_decides() -> None:
    clock = Clock()
    breaker = Breaker(max_failures=1, backoff=Backoff(1.0, draw=lambda: 1.0), clock=clock)
    breaker.failed()
    clock.now = 1.0
    assert breaker.try_now()
    assert not breaker.try_now(), "one probe at a time"
    breaker.failed()
    clock.now = 2.5
    assert not breaker.try_now(), "the second wait is twice as long"
    clock.now = 3.0
    assert breaker.try_now()
    breaker.succeeded()
    assert breaker.try_now() and breaker.try_now()


def test_a_probe_given_up_leaves_the_place_to_another() -> None:
    clock = Clock()
    breaker = Breaker(max_failures=1, backoff=Backoff(1.0, draw=lambda: 1.0), clock=clock)
    breaker.failed()
    clock.now = 1.0
    assert breaker.try_now()
    breaker.given_up()
    assert breaker.try_now()
