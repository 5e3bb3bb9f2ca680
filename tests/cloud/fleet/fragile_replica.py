"""What the replicas of a test run: an engine that breaks for good when it is asked to."""

from __future__ import annotations

import os

from offload.messages import Request
from tests.offload.scripted import ScriptedEngine


class Fragile(ScriptedEngine):
    """One that is broken from the first request for it on, and raises nothing."""

    def broken(self) -> str | None:
        asked = any(request.prompt == "break" for request in self.requests)
        return "it broke; start it again" if asked else None


def open_fragile() -> Fragile:
    def script(_: Request) -> list[str]:
        return [str(os.getpid())]

    return Fragile(script=script)
