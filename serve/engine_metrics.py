"""What is measured at the moment somebody asks: how busy the engine is, and its caches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from offload.engine import Engine, Reporting
from offload.messages import EngineLoad
from serve.health import fault_of


@dataclass
class Level:
    """A number that goes up and down."""

    value: int = 0

    def inc(self) -> None:
        """One more."""
        self.value += 1

    def dec(self) -> None:
        """One less."""
        self.value -= 1


@dataclass
class Seen:
    """What the HTTP face itself sees: answers that have begun, that have not, and who is queued."""

    running: Level
    waiting: Level
    queued: Level


class EngineMetrics(Collector):
    """Collects an engine's own figures, and the face's where the engine tells none.

    An engine that answers devices over the link too counts them all; the face sees only its own.
    """

    def __init__(self, prefix: str, engine: Engine | None, seen: Seen) -> None:
        self._prefix, self._engine, self._seen = prefix, engine, seen

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand now."""
        load = self._engine.report() if isinstance(self._engine, Reporting) else None
        running = load.num_running if load else self._seen.running.value
        waiting = load.num_waiting if load else self._seen.waiting.value
        yield self._gauge("num_requests_running", "Answers being written now.", running)
        yield self._gauge(
            "num_requests_waiting", "Requests not yet begun.", waiting + self._seen.queued.value
        )
        if self._engine is not None:
            up = fault_of(self._engine) is None
            yield self._gauge("engine_up", "1 while it can answer, 0 once it is broken.", up)
        if load is not None:
            yield from self._of_engine(load)

    def _of_engine(self, load: EngineLoad) -> Iterator[Metric]:
        yield self._gauge(
            "kv_cache_usage_perc",
            "Share of the cache that is held; 1 is full.",
            load.kv_cache_usage,
        )
        for name, text, value in (
            ("prefix_cache_queries", "Tokens of prompts looked up.", load.prefix_cache_queries),
            ("prefix_cache_hits", "Tokens of prompts found there.", load.prefix_cache_hits),
            ("num_preemptions", "Answers that had to give way.", load.num_preemptions),
        ):
            yield CounterMetricFamily(f"{self._prefix}:{name}", text, value=value)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"{self._prefix}:{name}", text, value=value)
