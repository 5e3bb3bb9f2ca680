"""Consent for all that one command sends: its person is asked once, at the terminal."""

from __future__ import annotations

import asyncio
import sys

from offload.messages import Request


class OnceForAll:
    """Asks whether all of it may leave, when the first text would; where nobody is, nothing may."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = asyncio.Lock()
        self._agreed: bool | None = None

    async def __call__(self, _: Request) -> bool:
        """Return what was said."""
        async with self._lock:
            if self._agreed is None:
                self._agreed = sys.stdin.isatty() and await asyncio.to_thread(self._ask)
            return self._agreed

    def _ask(self) -> bool:
        reply = input(f"May {self._what} leave the device for the cloud? [y/N] ")
        return reply.strip().lower() in ("y", "yes")
