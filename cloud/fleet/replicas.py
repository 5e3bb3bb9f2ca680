"""Replicas: several engine processes as one engine, balanced; one's death loses no question."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cloud.fleet.balance import Policy, prefix_of, total_load
from cloud.fleet.recent_latency import RecentLatency
from cloud.fleet.remote_replica import RemoteReplica
from cloud.fleet.replica import Replica, ReplicaOptions
from cloud.fleet.replica_process import ReplicaProcess
from offload.engine import AnswerStream
from offload.errors import CloudFailed, EngineStopped, LinkError, Overloaded
from offload.event_waiting import set_within
from offload.messages import EngineLoad, Finish, ModelCard, Request

_MAX_WAIT_S = 60.0
_MOST_LOST = 2  # replicas by one request: what ends each that reads it must not end them all


class Replicas:
    """An Engine of processes; a request whose replica dies before its answer began goes elsewhere.

    An answer that had begun raises CloudFailed: another replica may not write the same text; so
    does a request that two replicas died of.
    `options_of` says what the replica of a number runs, and on which device; the number of one that
    has left is given to the next.
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
        self._changed = asyncio.Event()  # set whenever one of them comes up or goes down
        self._replicas: list[Replica] = []
        self._leaving: dict[Replica, asyncio.Task[None]] = {}
        self._first, self._numbers = num_replicas, itertools.count()
        self._slots: dict[Replica, int] = {}  # whose options each has, those that leave included
        self._num_waiting = 0  # requests, for a replica to come up
        self.latency = RecentLatency()

    @property
    def replicas(self) -> Sequence[Replica]:
        """The replicas that are supervised now."""
        return tuple(self._replicas)

    @property
    def num_ongoing(self) -> int:
        """Answers that readers wait for or read, without those of replicas that leave."""
        read = sum(replica.num_running - replica.num_batch for replica in self._replicas)
        return read + self._num_waiting

    def replica_counts(self) -> dict[str, int]:
        """Return how many there are in each state; see offload.engine.Replicated."""
        num_ready = sum(replica.is_ready for replica in self._replicas)
        num_starting = len(self._replicas) - num_ready
        return {"ready": num_ready, "starting": num_starting, "draining": len(self._leaving)}

    async def start(self) -> ModelCard:
        """Start all, wait for the first, and return its card. Raises EngineStopped."""
        self.scale(self._first)
        return (await self._choose(Request(prompt="-"), [])).engine.card()

    def card(self) -> ModelCard:
        """Return what they all run. Raises EngineStopped while none is up."""
        for replica in self._replicas:
            with contextlib.suppress(EngineStopped, LinkError):
                return replica.engine.card()
        raise EngineStopped("no replica is up; ask again in a moment")

    def scale(self, num_replicas: int) -> None:
        """Start or retire replicas until there are so many; a retired one finishes its answers.

        One that is leaving is taken back before another is started, and who has least to do leaves.
        """
        while len(self._replicas) < num_replicas:
            self._replicas.append(self._taken_back() or self._started())
        while len(self._replicas) > num_replicas:
            # Of equals the one started last, whose cache has seen least.
            self._retire(min(reversed(self._replicas), key=lambda r: (r.is_ready, r.num_running)))

    def _started(self) -> Replica:
        taken = set(self._slots.values())
        slot = next(each for each in itertools.count() if each not in taken)
        replica = self._made(f"r{next(self._numbers)}", self._options_of(slot))
        self._slots[replica] = slot
        replica.start()
        return replica

    def _made(self, name: str, options: ReplicaOptions) -> Replica:
        if options.reach is not None:
            return RemoteReplica(name, options, changed=self._changed)
        return ReplicaProcess(name, Path(self._folder.name), options, changed=self._changed)

    def _taken_back(self) -> Replica | None:
        for replica in reversed(self._leaving):
            if replica.stay():
                self._leaving.pop(replica).cancel()
                return replica
        return None

    def _retire(self, replica: Replica) -> None:
        self._replicas.remove(replica)
        replica.retiring = True
        leaving = self._leaving[replica] = asyncio.create_task(replica.retire())
        leaving.add_done_callback(lambda task: self._has_left(replica, task))

    def _has_left(self, replica: Replica, task: asyncio.Task[None]) -> None:
        if self._leaving.get(replica) is task:  # and was not taken back
            del self._leaving[replica], self._slots[replica]

    async def generate(self, request: Request) -> AnswerStream:
        """Stream one replica's answer. Raises RequestError, EngineStopped, CloudFailed."""
        began_s = self.latency.clock()
        tried: list[Replica] = []
        num_lost = 0
        while True:
            replica = await self._choose(request, tried)
            engine, said = replica.engine, False
            forwarded = replica.forwarded(request)
            async with replica.busy():
                items = engine.generate(forwarded)
                async with contextlib.aclosing(items):
                    try:
                        async for item in items:
                            said = True
                            replica.said()
                            if isinstance(item, Finish):
                                self.latency.note_end(began_s)
                            yield item
                        return
                    except LinkError as error:
                        if said:
                            raise CloudFailed(
                                "the replica that was answering died; ask again"
                            ) from error
                        if isinstance(error, Overloaded) and len(tried) + 1 >= len(self._replicas):
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
        everyone = [*self._replicas, *self._leaving]
        for leaving in list(self._leaving.values()):
            leaving.cancel()
        closing = (replica.aclose() for replica in everyone)
        await asyncio.gather(*closing, *self._leaving.values(), return_exceptions=True)
        self._folder.cleanup()

    async def _choose(self, request: Request, tried: Sequence[Replica]) -> Replica:
        """Return a replica that is up, best one not tried yet; wait for one if need be."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + min(request.deadline_s or _MAX_WAIT_S, _MAX_WAIT_S)
        while True:
            up = [replica for replica in self._replicas if replica.is_ready]
            up = [replica for replica in up if replica.is_well] or up
            fresh = [replica for replica in up if replica not in tried] or up
            if fresh:
                statuses = [replica.status() for replica in fresh]
                return fresh[self.policy.choose(statuses, prefix_of(request))]
            self._num_waiting += 1
            try:
                has_changed = await self._anyone_changes(until_s - loop.time())
            finally:
                self._num_waiting -= 1
            if not has_changed:
                raise EngineStopped("no replica came up in time; see the log")

    async def _anyone_changes(self, timeout_s: float) -> bool:
        self._changed.clear()
        return await set_within(self._changed, timeout_s)
