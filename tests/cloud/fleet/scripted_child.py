"""What the replicas of a test run: an engine that says its process id, slowly if asked."""

from __future__ import annotations

import os

from offload.messages import Request
from tests.offload.scripted import ScriptedEngine


def open_scripted(pause_s: float = 0.0) -> ScriptedEngine:
    def script(request: Request) -> list[str]:
        many = 1000 if request.prompt == "long" else 1
        return [str(os.getpid())] + [" more"] * many

    return ScriptedEngine(script=script, pause_s=pause_s)
