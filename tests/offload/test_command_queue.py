"""Orders are followed in the order they were given, by the thread that follows, each once."""

from __future__ import annotations

import threading

import pytest

from offload.command_queue import CommandQueue


def test_orders_are_followed_in_turn_with_those_that_they_give() -> None:
    orders, followed = CommandQueue(), list[str]()

    def first() -> None:
        followed.append("first")
        orders.give(lambda: followed.append("late"))

    orders.give(first)
    orders.give(lambda: followed.append("second"))
    assert orders.num_waiting == 2
    orders.follow_waiting()
    assert followed == ["first", "second", "late"]
    assert orders.num_waiting == 0


def test_following_the_next_waits_for_one() -> None:
    orders, done = CommandQueue(), threading.Event()
    follower = threading.Thread(target=orders.follow_next)
    follower.start()
    orders.give(done.set)
    follower.join()
    assert done.is_set()


def test_an_order_that_fails_fails_whoever_follows_and_is_not_followed_again() -> None:
    orders = CommandQueue()

    def fail() -> None:
        raise ValueError("no")

    orders.give(fail)
    orders.give(lambda: None)
    with pytest.raises(ValueError, match="no"):
        orders.follow_waiting()
    assert orders.num_waiting == 1
