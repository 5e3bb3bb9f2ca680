"""The main program of a replica: opens an engine and serves it over a private socket.

It runs as `python -m cloud.fleet.replica_main ENDPOINT ENGINE ARGUMENTS CORES`. ENGINE is
module:function, ARGUMENTS its keyword arguments as JSON, CORES those it may run on, with commas
between them; empty is all. The process ends with its parent: when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path

from backbone.collector import leave_out_what_is_loaded
from backbone.errors import NearfarError
from backbone.event_loop import run_server
from offload.engine import Breakable, Engine
from offload.link.running_requests import AnswerLimits
from offload.link.server import LinkServer
from offload.warm_up import warm_up

_log = logging.getLogger(__name__)
_POLL_S = 0.2  # between two looks whether the engine is broken
_DRAIN_S = 2.0  # for answers that it broke, to be heard
_MAX_STREAMS = 100_000  # answers at once: the fleet's own admission is what bounds them


def open_model(folder: str, **options: object) -> Engine:
    """Return the cloud engine of a model folder; the options are EngineOptions' fields."""
    from cloud.engine.engine import CloudEngine
    from engine.torch.options import EngineOptions

    return CloudEngine(Path(folder), options=EngineOptions(**options))  # type: ignore[arg-type]


async def serve(engine: Engine, endpoint: str) -> None:
    """Serve over a private socket until the parent leaves."""
    limits = AnswerLimits(max_streams=_MAX_STREAMS, max_streams_per_device=_MAX_STREAMS)
    link = LinkServer(engine, endpoint, limits=limits, trusts_asker=True)
    async with aclosing(engine), aclosing(link) as server:
        await _warm(engine)
        leave_out_what_is_loaded()
        await server.start()
        left = asyncio.ensure_future(asyncio.to_thread(sys.stdin.buffer.read))
        while not left.done():
            if isinstance(engine, Breakable) and (why := engine.broken()) is not None:
                await _exit_broken(server, why)
            await asyncio.wait((left,), timeout=_POLL_S)


async def _warm(engine: Engine) -> None:
    """Answer once before anybody can ask; what fails here is told, and each asker learns it."""
    try:
        await warm_up(engine)
    except NearfarError as error:
        _log.warning("the engine could not be warmed up: %s", error)


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
    run_server(serve(made, endpoint))


if __name__ == "__main__":
    main()
