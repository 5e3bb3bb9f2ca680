"""Cloud watch: reaches for the cloud while somebody looks, so that what is said of it is true.

No text leaves for it: a handshake of the link, or a server's list of models. Where nothing may
leave at all, nothing is reached for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol, runtime_checkable

from backbone.errors import NearfarError
from offload.engine import Engine
from offload.hybrid.hybrid import Hybrid
from offload.messages import ModelCard, Privacy

EVERY_S = 10.0


@runtime_checkable
class Reachable(Protocol):
    """A far engine that can be reached before anything is asked."""

    async def connect(self) -> ModelCard:
        """Reach it, if not yet connected. Raises LinkError."""
        ...


@runtime_checkable
class Server(Protocol):
    """A far engine without a lasting connection, which is asked anew whether it is there."""

    async def look(self) -> None:
        """Ask whether it is there. Raises LinkError."""
        ...


async def reach(engine: Engine) -> None:
    """Reach for the cloud behind an engine, if it has one; a failure is told by its status."""
    if not isinstance(engine, Hybrid) or engine.cloud is None:
        return
    allowed = engine.cloud.door.allowed()
    if allowed.offline or allowed.privacy is Privacy.LOCAL_ONLY:
        return
    cloud = engine.cloud.cloud
    with contextlib.suppress(NearfarError, OSError):
        if isinstance(cloud, Server):
            await cloud.look()
        elif isinstance(cloud, Reachable):
            await cloud.connect()


@contextlib.asynccontextmanager
async def watching(engine: Callable[[], Engine], every_s: float = EVERY_S) -> AsyncIterator[None]:
    """Reach for the cloud now and again while the block runs; `engine` tells which one stands."""

    async def watch() -> None:
        while True:
            await reach(engine())
            await asyncio.sleep(every_s)

    job = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        job.cancel()
        await asyncio.wait([job])
