"""Event loop of a server: uvloop's where the extra `fast` is installed, else asyncio's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

SWITCH = "NEARFAR_EVENT_LOOP"  # "asyncio" takes that one although uvloop is there


def run_server(main: Coroutine[Any, Any, None]) -> None:
    """Run a server to its end, as asyncio.run does."""
    if os.environ.get(SWITCH, "").lower() != "asyncio":
        try:
            import uvloop
        except ModuleNotFoundError:
            pass
        else:
            uvloop.run(main)
            return
    asyncio.run(main)
