"""Stop signals, received by a running event loop on every system."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

_nowhere: IO[str] | None = None


@contextmanager
def on_signals(
    call: Callable[[], Any], *numbers: signal.Signals, within_s: float | None = None
) -> Iterator[None]:
    """Let signals call `call` in the running loop while the block runs.

    Where `within_s` is told, the process ends by then, whatever its threads do or wait for.

    Windows' loops take no handlers: there the interpreter's own wakes the loop. Outside the main
    thread no signal can be heard, and nothing is changed.
    """
    loop = asyncio.get_running_loop()
    before: dict[signal.Signals, Any] = {}

    def heard() -> None:
        if within_s is not None:
            end_within(within_s)
        call()

    def wake(*_: object) -> None:
        loop.call_soon_threadsafe(heard)

    try:
        for each in numbers:
            found = signal.getsignal(each)
            try:
                loop.add_signal_handler(each, heard)
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


def end_within(seconds: float) -> None:
    """End this process with status 1 unless it has ended by then.

    A thread of Python's own could not: code that holds the interpreter's lock would stop it too.
    """
    global _nowhere
    _nowhere = _nowhere or open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
    faulthandler.dump_traceback_later(seconds, exit=True, file=_nowhere)
