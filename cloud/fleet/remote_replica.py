"""A replica on another machine: reached and watched, and neither started nor stopped from here."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, runtime_checkable

import msgspec

from cloud.fleet.replica import Replica, ReplicaOptions
from offload.asker import asker_digest
from offload.chain import Waypoint
from offload.engine import Connectable, Engine
from offload.errors import CloudUnreachable, LinkError
from offload.messages import Request
from offload.upstream.client import Upstream

_LOOK_S = 1.0  # between two looks whether it is there


@runtime_checkable
class _Pinged(Protocol):
    async def ping(self) -> float: ...


class RemoteReplica(Replica):
    """Replica behind the link or HTTP; one that is lost is reached for again and again.

    The other machine knows this one alone, not who asks here: those are kept apart in its caches
    by a salt, and batch work is not told from other work.
    """

    def __init__(self, name: str, options: ReplicaOptions, *, changed: asyncio.Event) -> None:
        super().__init__(name, options, changed=changed)
        self._waypoint = Waypoint()
        self._is_well = False

    @property
    def is_well(self) -> bool:
        """Whether it was there at the last look."""
        return self._is_well

    def forwarded(self, request: Request) -> Request:
        """Return a request with the salt of whoever asks, in the place of their name."""
        onward = self._waypoint.onward(request)
        if isinstance(self._engine, Upstream):  # which salts where its server has a word for it
            return onward
        session = None if request.session is None else asker_digest(request.session)
        salt = asker_digest(request.cache_salt)
        return msgspec.structs.replace(onward, cache_salt=salt, session=session)

    async def _run(self) -> None:
        assert self.options.reach is not None, "the options of one elsewhere say how to reach it"
        self.num_starts += 1
        engine = self.options.reach()
        try:
            assert isinstance(engine, Connectable), "what is elsewhere is connected to"
            await engine.connect()
            self._engine, self._is_well = engine, True
            self._changed.set()
            await self._until_lost(engine)
        finally:
            self._engine, self._is_well = None, False
            self._changed.set()
            await engine.aclose()

    async def _until_lost(self, engine: Engine) -> None:
        """Look again and again; raises CloudUnreachable once it was not there for too long."""
        heard_s = time.monotonic()
        while time.monotonic() - heard_s < self.options.deaf_after_s:
            await asyncio.sleep(_LOOK_S)
            try:
                await _look(engine)
            except (LinkError, asyncio.TimeoutError):
                self._is_well = False
                continue
            heard_s, was_well, self._is_well = time.monotonic(), self._is_well, True
            if not was_well:
                self._changed.set()
        raise CloudUnreachable(
            f"{self.name} was not there for {self.options.deaf_after_s:.0f} s; look at its server"
        )


async def _look(engine: Engine) -> None:
    if isinstance(engine, Upstream):
        await engine.look()
    elif isinstance(engine, _Pinged):
        await engine.ping()
