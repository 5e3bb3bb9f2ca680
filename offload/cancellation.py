"""Cancellation: an event that compiled code can read, set once an answer's reader is gone."""

from __future__ import annotations

import ctypes
import threading


class Cancellation(threading.Event):
    """Cancellation event that also turns a byte from 0 to 1, for code that holds no GIL."""

    def __init__(self) -> None:
        super().__init__()
        self._byte = ctypes.create_string_buffer(2)

    @property
    def address(self) -> int:
        """Return where the byte lies, as long as this object lives; another 0 follows it."""
        return ctypes.addressof(self._byte)

    def set(self) -> None:
        self._byte[0] = b"\x01"
        super().set()

    def clear(self) -> None:
        self._byte[0] = b"\x00"
        super().clear()
