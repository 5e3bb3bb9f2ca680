"""A replica: one engine of several alike, supervised: what balancing knows of it and tells it.

Where its engine runs is told by its kinds: a process of this machine (replica_process.py), or a
server of another (remote_replica.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from cloud.fleet.balance import ReplicaStatus
from offload.asker import asker
from offload.engine import Engine, LoadReporting
from offload.errors import EngineStopped, LinkError
from offload.link.backoff import Backoff
from offload.messages import EngineLoad, ForwardedRequest, Request
from offload.priority import priority

_log = logging.getLogger(__name__)
_NEW_SHARE = 0.2  # weight of the newest answer in the mean


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """Options of a replica; `engine` and `arguments` are replica_main's.

    With `reach` it runs elsewhere, and that opens the engine through which it is asked.
    """

    engine: str = "cloud.fleet.replica_main:open_model"
    arguments: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)  # such as CUDA_VISIBLE_DEVICES
    cores: tuple[int, ...] = ()  # it may run on; none given is all
    weight: float = 1.0
    start_timeout_s: float = 300.0
    # After which one is started anew: it answers no ping, or says nothing to anybody who waits.
    deaf_after_s: float = 60.0
    stuck_after_s: float = 600.0
    reach: Callable[[], Engine] | None = None


class Replica(ABC):
    """Replica: supervised from `start` to `aclose`."""

    def __init__(self, name: str, options: ReplicaOptions, *, changed: asyncio.Event) -> None:
        """`changed` is set whenever it comes up, goes down or has ended an answer."""
        self.name, self.options, self._changed = name, options, changed
        self._engine: Engine | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.num_running = self.num_batch = self.num_starts = 0
        self._said_s = 0.0  # a piece of any answer
        self.mean_s = 0.0
        self.retiring = self._is_stopped = False

    @abstractmethod
    async def _run(self) -> None:
        """Be up once, with `_engine` while it can be asked, until it is of no use any more."""

    @property
    @abstractmethod
    def is_well(self) -> bool:
        """Whether it was heard at the last attempt: one that is not is asked last."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked now."""
        return self._engine is not None and not self.retiring

    @property
    def engine(self) -> Engine:
        """What its engine is asked through. Raises EngineStopped while there is none."""
        if self._engine is None:
            raise EngineStopped(f"replica {self.name} is down; ask again in a moment")
        return self._engine

    def forwarded(self, request: Request) -> Request:
        """Return a request as it is asked on behalf of whoever asks here."""
        beside = {"asker": asker(), "priority": priority()}
        return ForwardedRequest(**msgspec.structs.asdict(request) | beside)

    def status(self) -> ReplicaStatus:
        """Return the status that a balancing policy reads."""
        return ReplicaStatus(
            name=self.name,
            num_running=self.num_running,
            weight=self.options.weight,
            mean_s=self.mean_s,
            cache_use=load.kv_cache_usage if (load := self.report()) else 0.0,
        )

    def report(self) -> EngineLoad | None:
        """Return the load its engine last reported; None before that, and while it is down."""
        return self._engine.report() if isinstance(self._engine, LoadReporting) else None

    def start(self) -> None:
        """Begin to supervise it."""
        self._supervisor = asyncio.create_task(self._supervise())

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Count one answer while the block lasts."""
        began_s, is_batch = time.monotonic(), priority() == "batch"
        if not self.num_running:
            self._said_s = began_s
        self.num_running += 1
        self.num_batch += is_batch
        try:
            yield
        finally:
            self.num_running -= 1
            self.num_batch -= is_batch
            took_s = time.monotonic() - began_s
            self.mean_s = took_s if not self.mean_s else (
                self.mean_s + _NEW_SHARE * (took_s - self.mean_s)
            )  # fmt: skip
            self._changed.set()

    def said(self) -> None:
        """Note a piece of an answer."""
        self._said_s = time.monotonic()

    async def retire(self) -> None:
        """Let what runs end and stop, where it is `retiring`; see `stay`."""
        while self.retiring and self.num_running:
            self._changed.clear()
            await self._changed.wait()
        if self.retiring:
            self._is_stopped = True
            await self.aclose()

    def stay(self) -> bool:
        """Take new requests again; False where it has been stopped already."""
        if self._is_stopped:
            return False
        self.retiring = False
        self._changed.set()
        return True

    async def aclose(self) -> None:
        """Stop it."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)

    async def _supervise(self) -> None:
        for pause_s in Backoff():
            began_s = time.monotonic()
            try:
                await self._run()
            except (LinkError, OSError) as error:
                _log.error("replica %s did not start: %s", self.name, error)
            _log.warning("replica %s ended after %.0f s", self.name, time.monotonic() - began_s)
            await asyncio.sleep(pause_s)
