"""The main program of a replica: opens an engine and serves it over a private socket.

It runs as `python -m cloud.fleet.replica_main ENDPOINT ENGINE ARGUMENTS CORES`. ENGINE is
module:function, ARGUMENTS its keyword arguments as JSON, CORES those it may run on, with commas
between them; empty is all. The process ends with its parent: when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import logging
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

import msgspec

from offload.asker import asked_by, asker
from offload.engine import AnswerStream, Breaking, Engine, Reporting
from offload.link.running_requests import AnswerLimits
from offload.link.server import LinkServer
from offload.messages import EngineLoad, ModelCard, Request

_log = logging.getLogger(__name__)
_POLL_S = 0.2  # between two looks whether the engine is broken
_DRAIN_S = 2.0  # for answers that it broke, to be heard
_MAX_STREAMS = 100_000  # answers at once: the fleet's own admission is what bounds them


def open_model(folder: str, **options: object) -> Engine:
    """Return the cloud engine of a model folder; the options are EngineOptions' fields."""
    from cloud.engine.engine import CloudEngine
    from cloud.engine.options import EngineOptions

    return CloudEngine(Path(folder), options=EngineOptions(**options))  # type: ignore[arg-type]


def with_asker(request: Request) -> Request:
    """Return a request whose salt names its asker: the replica's process knows no other way."""
    salt = hashlib.sha256(request.cache_salt.encode("utf-8", "surrogatepass")).hexdigest()
    named = f"{asker()}\n{salt if request.cache_salt else ''}"
    return msgspec.structs.replace(request, cache_salt=named)


class _WithAsker:
    """Sets the asker of each request from its salt; see with_asker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def card(self) -> ModelCard:
        return self._engine.card()

    def report(self) -> EngineLoad | None:
        return self._engine.report() if isinstance(self._engine, Reporting) else None

    async def generate(self, request: Request) -> AnswerStream:
        who, _, salt = request.cache_salt.rpartition("\n")
        own = msgspec.structs.replace(request, cache_salt=salt)
        with asked_by(who):  # the link runs each answer in a task of its own
            items = self._engine.generate(own)
            async with aclosing(items):
                async for item in items:
                    yield item

    async def aclose(self) -> None:
        await self._engine.aclose()


async def serve(engine: Engine, endpoint: str) -> None:
    """Serve over a private socket until the parent leaves."""
    limits = AnswerLimits(max_streams=_MAX_STREAMS, max_streams_per_device=_MAX_STREAMS)
    link = LinkServer(_WithAsker(engine), endpoint, limits=limits)
    async with aclosing(engine), aclosing(link) as server:
        await server.start()
        left = asyncio.ensure_future(asyncio.to_thread(sys.stdin.buffer.read))
        while not left.done():
            if isinstance(engine, Breaking) and (why := engine.broken()) is not None:
                await _exit_broken(server, why)
            await asyncio.wait((left,), timeout=_POLL_S)


async def _exit_broken(server: LinkServer, why: str) -> None:
    """End the process, for its supervisor to start another; answers under way end first."""
    _log.error("the engine broke: %s", why)
    await server.drain(_DRAIN_S)
    os._exit(1)  # no step that waits for a dead process could be interrupted


def main() -> None:
    """Open the engine and serve it."""
    # Ctrl-C in a terminal reaches every process; the parent ends this one when it has drained.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    endpoint, engine, arguments, cores = sys.argv[1:]
    if cores and hasattr(os, "sched_setaffinity"):  # before torch counts the cores it has
        os.sched_setaffinity(0, map(int, cores.split(",")))
    module, _, function = engine.partition(":")
    made = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    asyncio.run(serve(made, endpoint))


if __name__ == "__main__":
    main()
