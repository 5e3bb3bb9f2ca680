"""A replica in a process of its own on this machine, restarted when it dies or falls silent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path

from cloud.fleet.replica import Replica, ReplicaOptions
from offload.errors import CloudFailed, LinkError
from offload.link.client import CloudLink

_log = logging.getLogger(__name__)
_POLL_S = 0.05
_STOP_S = 10.0
_PING_S = 0.25  # between two looks at an engine's load


class ReplicaProcess(Replica):
    """Replica process, which ends with this one."""

    def __init__(
        self, name: str, folder: Path, options: ReplicaOptions, *, changed: asyncio.Event
    ) -> None:
        """`folder` is where its socket lies; only this user may enter it."""
        super().__init__(name, options, changed=changed)
        self._endpoint = f"ipc://{folder / name}"
        self._process: asyncio.subprocess.Process | None = None
        self._heard_s = 0.0  # by ping

    @property
    def is_well(self) -> bool:
        """Whether it was heard at the last attempt."""
        return isinstance(self._engine, CloudLink) and self._engine.snapshot().healthy

    @property
    def pid(self) -> int:
        """The process id of an engine that has been started."""
        assert self._process is not None, "start() makes the process"
        return self._process.pid

    async def _run(self) -> None:
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
                self._engine = link
                self._heard_s = time.monotonic()
                self._pinger = asyncio.create_task(self._keep_pinging(link))
                self._changed.set()
                return
        finally:
            if self._engine is not link:
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
        engine, self._engine = self._engine, None
        self._changed.set()
        if engine is not None:
            self._pinger.cancel()
            await engine.aclose()  # which ends the answers that somebody waits for
        assert process.stdin is not None, "it was made with a pipe"
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_S)
        except asyncio.TimeoutError:
            process.kill()
            await process.wait()
