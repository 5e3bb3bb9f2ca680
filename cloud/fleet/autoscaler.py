"""Autoscaler: lets the number of running replicas follow their load, by a scaling policy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

from cloud.fleet.autoscale import LoadSample, Scaler, ScalingOptions, remember, scaling_policy
from cloud.fleet.load_watch import LoadWatch
from cloud.fleet.replicas import Replicas

_log = logging.getLogger(__name__)
_EVERY_S = 1.0  # between two looks at the load


class Autoscaler:
    """Autoscaler of one fleet; bounds and delays are those of ScalingOptions."""

    def __init__(
        self,
        replicas: Replicas,
        options: ScalingOptions,
        *,
        scale_by: str = "queue",
        sample: Callable[[], LoadSample] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`sample` measures the load, `tell` gets a line for each change. Raises SettingsError."""
        self._replicas, self._scale_by = replicas, scale_by
        self._scaler = Scaler(scaling_policy(scale_by), options)
        self._sample = sample or LoadWatch(replicas).sample
        self._tell = tell
        self._samples: list[LoadSample] = []

    def look(self) -> None:
        """Measure once, and start or retire replicas where it is time."""
        now = self._sample()
        remember(self._samples, now)
        wanted = self._scaler.decide(self._samples)
        if wanted == now.num_replicas:
            return
        self._replicas.scale(wanted)
        load = f"{now.ongoing:g} answers in flight, {now.utilization:.0%} of the cores used"
        self._tell(
            f"replicas: {now.num_replicas} -> {wanted} by {self._scale_by} "
            f"({load}, {now.latency_s:.1f} s each)"
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look every second while the block lasts."""
        task = asyncio.create_task(self._keep_looking())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while True:
            try:
                self.look()
            except Exception:
                _log.exception("looking at the load failed; it will be tried again")
            await asyncio.sleep(_EVERY_S)
