"""Replicas: several engine processes as one engine, balanced; one's death loses no question."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cloud.fleet.balance import Policy, prefix_of, total_load
from cloud.fleet.replica import Replica, ReplicaOptions
from offload.asker import asker
from offload.engine import AnswerStream
from offload.errors import CloudFailed, EngineStopped, LinkError, Overloaded
from offload.messages import EngineLoad, ForwardedRequest, ModelCard, Request

_MAX_WAIT_S = 60.0
_MOST_LOST = 2  # replicas by one request: what ends each that reads it must not end them all


class Replicas:
    """An Engine of processes; a request whose replica dies before its answer began goes elsewhere.

    An answer that had begun raises CloudFailed: another replica may not write the same text; so
    does a request that two replicas died of.
    `options_of` says what the replica of a number runs, and on which device.
    """

    def __init__(
        self,
        options_of: Callable[[int], ReplicaOptions],
        *,
        num_replicas: int,
        policy: Policy,
    ) -> None:
        self._options_of, self.policy = options_of, policy
        self._folder = tempfile.TemporaryDirectory(prefix="nearfar-fleet-")  # of mode 0700
        self._replicas: list[Replica] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._wanted, self._numbers = num_replicas, 0

    @property
    def replicas(self) -> Sequence[Replica]:
        """The replicas that are supervised now."""
        return tuple(self._replicas)

    async def start(self) -> ModelCard:
        """Start all, wait for the first, and return its card. Raises EngineStopped."""
        self.scale(self._wanted)
        return (await self._choose(Request(prompt="-"), [])).link.card()

    def card(self) -> ModelCard:
        """Return what they all run. Raises EngineStopped while none is up."""
        for replica in self._replicas:
            with contextlib.suppress(EngineStopped, LinkError):
                return replica.link.card()
        raise EngineStopped("no replica is up; ask again in a moment")

    def scale(self, num_replicas: int) -> None:
        """Start or retire replicas until there are so many; a retired one finishes its answers."""
        while len(self._replicas) < num_replicas:
            number, self._numbers = self._numbers, self._numbers + 1
            replica = Replica(f"r{number}", Path(self._folder.name), self._options_of(number))
            replica.start()
            self._replicas.append(replica)
        for replica in self._replicas[num_replicas:]:
            leaving = asyncio.create_task(replica.retire())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)
        del self._replicas[num_replicas:]

    async def generate(self, request: Request) -> AnswerStream:
        """Stream one replica's answer. Raises RequestError, EngineStopped, CloudFailed."""
        tried: list[Replica] = []
        num_lost = 0
        while True:
            replica = await self._choose(request, tried)
            link, said = replica.link, False
            forwarded = ForwardedRequest(**msgspec.structs.asdict(request) | {"asker": asker()})
            async with replica.busy():
                items = link.generate(forwarded)
                async with contextlib.aclosing(items):
                    try:
                        async for item in items:
                            said = True
                            yield item
                        return
                    except LinkError as error:
                        if said:
                            raise CloudFailed(
                                "the replica that was answering died; ask again"
                            ) from error
                        if isinstance(error, Overloaded) and len(tried) + 1 >= self._wanted:
                            raise
                        num_lost += not isinstance(error, Overloaded)
                        if num_lost >= _MOST_LOST:
                            raise CloudFailed(
                                f"{num_lost} replicas died while they read this request; it is not "
                                "given to another"
                            ) from error
            tried.append(replica)

    def report(self) -> EngineLoad | None:
        """Return the load of all that have reported theirs; see offload.engine.LoadReporting."""
        return total_load([replica.report() for replica in self._replicas])

    async def aclose(self) -> None:
        """Stop every process."""
        for leaving in list(self._leaving):
            leaving.cancel()
        await asyncio.gather(*(replica.aclose() for replica in self._replicas), *self._leaving,
                             return_exceptions=True)  # fmt: skip
        self._folder.cleanup()

    async def _choose(self, request: Request, tried: Sequence[Replica]) -> Replica:
        """Return a replica that is up, best one not tried yet; wait for one if need be."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + min(request.deadline_s or _MAX_WAIT_S, _MAX_WAIT_S)
        while True:
            up = [replica for replica in self._replicas if replica.is_ready]
            fresh = [replica for replica in up if replica not in tried] or up
            if fresh:
                statuses = [replica.status() for replica in fresh]
                return fresh[self.policy.choose(statuses, prefix_of(request))]
            if not await self._anyone_changes(until_s - loop.time()):
                raise EngineStopped("no replica came up in time; see the log")

    async def _anyone_changes(self, timeout_s: float) -> bool:
        for replica in self._replicas:
            replica.changed.clear()
        waits = [asyncio.ensure_future(replica.changed.wait()) for replica in self._replicas]
        done, pending = await asyncio.wait(
            waits, timeout=max(0.0, timeout_s), return_when=asyncio.FIRST_COMPLETED
        )
        for wait in pending:
            wait.cancel()
        return bool(done)
