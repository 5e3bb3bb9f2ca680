"""Work for somebody: it ends when the client hangs up, or when nobody may wait any longer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive


async def while_present(
    receive: Receive, work: Coroutine[Any, Any, None], *, timeout_s: float
) -> bool:
    """Run `work` until it is done, the client is gone, or the time is up; whether it was done.

    The body must have been read. Left early, `work` is cancelled and waited for.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait(
            (working, leaving), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if not working.done():
            return False
        working.result()  # raises what the work raised
        return True
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
