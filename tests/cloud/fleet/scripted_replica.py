"""What the replicas of a test run: an engine that says its process id, slowly if asked."""

from __future__ import annotations

import os

from offload.asker import asker
from offload.messages import EngineLoad, Request
from tests.offload.scripted import ScriptedEngine


class Loaded(ScriptedEngine):
    """One that says how full its cache is, and how many ask it."""

    cache_use = 0.0

    def report(self) -> EngineLoad:
        return EngineLoad(num_running=len(self.running), kv_cache_usage=self.cache_use)


def open_scripted(pause_s: float = 0.0, cache_use: float = 0.0) -> ScriptedEngine:
    def script(request: Request) -> list[str]:
        if request.prompt == "who":
            return [f"{asker()}|{request.cache_salt}"]
        if request.prompt == "die":
            os.abort()
        if request.prompt == "where":
            wanted = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
            told = [os.environ.get(name, "") for name in wanted]
            return [" ".join([*told, ",".join(map(str, sorted(os.sched_getaffinity(0))))])]
        if request.prompt == "asked before":
            return [str(len(made.requests) - 1)]
        many = 1000 if request.prompt == "long" else 1
        return [str(os.getpid())] + [" more"] * many

    made = Loaded(script=script, pause_s=pause_s)
    made.cache_use = cache_use
    return made
