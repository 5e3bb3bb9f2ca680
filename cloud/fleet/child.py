"""The process of one replica: `python -m cloud.fleet.child ENDPOINT ENGINE ARGUMENTS`.

ENGINE is module:function, ARGUMENTS its keyword arguments as JSON. The process ends with its
parent: when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from contextlib import aclosing
from pathlib import Path

from offload.engine import Engine
from offload.link.answers import AnswerLimits
from offload.link.server import LinkServer

_MOST = 100_000  # answers at once: the fleet's own admission is what bounds them


def open_model(folder: str, **options: object) -> Engine:
    """Return the cloud engine of a model folder; the options are EngineOptions' fields."""
    from cloud.engine.engine import CloudEngine
    from cloud.engine.options import EngineOptions

    return CloudEngine(Path(folder), options=EngineOptions(**options))  # type: ignore[arg-type]


async def serve(engine: Engine, endpoint: str) -> None:
    """Serve over a private socket until the parent leaves."""
    limits = AnswerLimits(max_streams=_MOST, max_streams_per_device=_MOST)
    async with aclosing(engine), aclosing(LinkServer(engine, endpoint, limits=limits)) as server:
        await server.start()
        await asyncio.to_thread(sys.stdin.buffer.read)


def main() -> None:
    """Open the engine and serve it."""
    endpoint, engine, arguments = sys.argv[1:]
    module, _, function = engine.partition(":")
    made = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    asyncio.run(serve(made, endpoint))


if __name__ == "__main__":
    main()
