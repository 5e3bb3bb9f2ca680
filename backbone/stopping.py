"""Signals that a running event loop is to hear, on every system."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def on_signals(call: Callable[[], Any], *numbers: signal.Signals) -> Iterator[None]:
    """Let signals call `call` in the running loop while the block runs.

    Windows' loops take no handlers: there the interpreter's own wakes the loop. Outside the main
    thread no signal can be heard, and nothing is changed.
    """
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}

    def wake(*_: object) -> None:
        loop.call_soon_threadsafe(call)

    try:
        for each in numbers:
            found = signal.getsignal(each)
            try:
                loop.add_signal_handler(each, call)
            except NotImplementedError:
                signal.signal(each, wake)
            before[each] = found
    except (RuntimeError, ValueError):  # not in the main thread
        pass
    try:
        yield
    finally:
        for each, handler in before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(each)
            signal.signal(each, handler)  # asyncio's own for Ctrl-C, which the loop would forget
