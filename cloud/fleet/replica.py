"""A replica: one engine in a process of its own, supervised and restarted when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cloud.fleet.balance import ReplicaStatus
from offload.errors import CloudFailed, EngineStopped, LinkError
from offload.link.backoff import Backoff
from offload.link.client import CloudLink
from offload.messages import EngineLoad
from offload.priority import priority

_log = logging.getLogger(__name__)
_POLL_S = 0.05
_NEW_SHARE = 0.2  # weight of the newest answer in the mean
_STOP_S = 10.0
_PING_S = 0.25  # between two looks at an engine's load


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """Options of a replica; `engine` and `arguments` are replica_main's."""

    engine: str = "cloud.fleet.replica_main:open_model"
    arguments: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)  # such as CUDA_VISIBLE_DEVICES
    cores: tuple[int, ...] = ()  # it may run on; none given is all
    weight: float = 1.0
    start_timeout_s: float = 300.0
    # After which one is started anew: it answers no ping, or says nothing to anybody who waits.
    deaf_after_s: float = 60.0
    stuck_after_s: float = 600.0


class Replica:
    """Replica: supervises one process from `start` to `aclose`."""

    def __init__(
        self, name: str, folder: Path, options: ReplicaOptions, *, changed: asyncio.Event
    ) -> None:
        """`folder` is where its socket lies; only this user may enter it.

        `changed` is set whenever it comes up, goes down or has ended an answer.
        """
        self.name = name
        self._endpoint = f"ipc://{folder / name}"
        self.options = options
        self._link: CloudLink | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._changed = changed
        self.num_running = self.num_batch = self.num_starts = 0
        self._heard_s = self._said_s = 0.0  # by ping, and by a piece of any answer
        self.mean_s = 0.0
        self.retiring = self._is_stopped = False

    @property
    def is_ready(self) -> bool:
        """Whether it can be asked now."""
        return self._link is not None and not self.retiring

    @property
    def is_well(self) -> bool:
        """Whether it was heard at the last attempt: one that is not is asked last."""
        return self._link is not None and self._link.snapshot().healthy

    @property
    def pid(self) -> int:
        """The process id of an engine that has been started."""
        assert self._process is not None, "start() makes the process"
        return self._process.pid

    @property
    def link(self) -> CloudLink:
        """The link to its engine. Raises EngineStopped while there is none."""
        if self._link is None:
            raise EngineStopped(f"replica {self.name} is down; ask again in a moment")
        return self._link

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
        return self._link.report() if self._link is not None else None

    def start(self) -> None:
        """Begin to supervise a process."""
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
        """Stop the process."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)

    async def _supervise(self) -> None:
        for pause_s in Backoff():
            began_s = time.monotonic()
            try:
                await self._run_process()
            except (LinkError, OSError) as error:
                _log.error("replica %s did not start: %s", self.name, error)
            _log.warning("replica %s ended after %.0f s", self.name, time.monotonic() - began_s)
            await asyncio.sleep(pause_s)

    async def _run_process(self) -> None:
        """Run one process to its end."""
        options = self.options
        self.num_starts += 1
        arguments = [
            self._endpoint,
            options.engine,
            json.dumps(dict(options.arguments)),
        ]
        arguments.append(",".join(map(str, options.cores)))
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cloud.fleet.replica_main", *arguments),
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, **options.environment},
        )
        try:
            await self._connect(self._process)
            await self._until_useless(self._process)
        finally:
            await self._disconnect(self._process)

    async def _connect(self, process: asyncio.subprocess.Process) -> None:
        link, until_s = CloudLink(self._endpoint), time.monotonic() + self.options.start_timeout_s
        try:
            while process.returncode is None and time.monotonic() < until_s:
                try:
                    await link.connect(1.0)
                except LinkError:
                    await asyncio.sleep(_POLL_S)
                    continue
                self._link = link
                self._heard_s = time.monotonic()
                self._pinger = asyncio.create_task(self._keep_pinging(link))
                self._changed.set()
                return
        finally:
            if self._link is not link:
                await link.aclose()
        raise CloudFailed(
            f"its process ended or was not ready (status {process.returncode}); see its log"
        )

    async def _until_useless(self, process: asyncio.subprocess.Process) -> None:
        """Wait until a process has ended, or neither hears nor says anything any more."""
        ended = asyncio.ensure_future(process.wait())
        try:
            while not ended.done() and not (why := self._why_useless(time.monotonic())):
                await asyncio.wait((ended,), timeout=_PING_S)
            if not ended.done():
                _log.error("replica %s %s; it is started anew", self.name, why)
        finally:
            ended.cancel()

    def _why_useless(self, now_s: float) -> str:
        options = self.options
        if now_s - self._heard_s > options.deaf_after_s:
            return f"has not been heard for {options.deaf_after_s:.0f} s"
        if self.num_running and now_s - self._said_s > options.stuck_after_s:
            return f"has said nothing for {options.stuck_after_s:.0f} s to {self.num_running} asked"
        return ""

    async def _keep_pinging(self, link: CloudLink) -> None:
        """Ping, so that the reported load stays fresh; a busy link does not ping by itself."""
        while True:
            with contextlib.suppress(LinkError, asyncio.TimeoutError):
                await link.ping()
                self._heard_s = time.monotonic()
            await asyncio.sleep(_PING_S)

    async def _disconnect(self, process: asyncio.subprocess.Process) -> None:
        link, self._link = self._link, None
        self._changed.set()
        if link is not None:
            self._pinger.cancel()
            await link.aclose()  # which ends the answers that somebody waits for
        assert process.stdin is not None, "it was made with a pipe"
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
