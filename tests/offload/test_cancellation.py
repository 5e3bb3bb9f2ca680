"""A cancellation can be looked at from Python and by address."""

from __future__ import annotations

import ctypes

from offload.cancellation import Cancellation


def test_the_byte_follows_the_event() -> None:
    gone = Cancellation()
    seen = lambda: ctypes.string_at(gone.address)  # noqa: E731
    assert not gone.is_set() and seen() == b""
    gone.set()
    assert gone.is_set() and seen() == b"\x01"
    gone.clear()
    assert not gone.is_set() and seen() == b""
