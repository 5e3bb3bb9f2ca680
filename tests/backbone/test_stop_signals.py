"""A signal ends a process within its time, even one whose interpreter never lets go."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HELD = """
import asyncio, re, signal, threading, time
from backbone.stop_signals import on_signals

async def main():
    told = asyncio.Event()
    with on_signals(told.set, signal.SIGTERM, within_s=0.5):
        print("up", flush=True)
        await told.wait()
        {what}

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "what",
    [
        "re.match('(a*)*b', 'a' * 40)",  # holds the interpreter's lock for hours
        "await asyncio.to_thread(time.sleep, 3600)",
        "threading.Thread(target=time.sleep, args=(3600,)).start()",
    ],
    ids=["lock", "executor", "thread"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to be heard")
def test_a_signal_ends_a_process_that_cannot_end(what: str) -> None:
    code = HELD.format(what=what)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(60) == 1
    finally:
        process.kill()
        process.stdout.close()
