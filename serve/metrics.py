"""Metrics for Prometheus, under vLLM's names behind our prefix; never any content."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backbone.energy import EnergyMeter
from backbone.nvml import GpuReading, read_gpus
from offload.engine import Engine, LoadReporting, Replicated, fault_of
from offload.messages import Delta, EngineLoad, Finish


@dataclass
class Gauge:
    """Gauge: a number that goes up and down."""

    value: int = 0

    def inc(self) -> None:
        """One more."""
        self.value += 1

    def dec(self) -> None:
        """One less."""
        self.value -= 1


@dataclass
class FaceGauges:
    """Gauges that the HTTP face itself counts: running, waiting and queued answers."""

    running: Gauge
    waiting: Gauge
    queued: Gauge


_GPU_GAUGES = (
    ("gpu_utilization", "Share of the last moments in which a kernel ran.", "utilization"),
    ("gpu_memory_used_bytes", "Memory of the GPU that is taken.", "memory_used_bytes"),
    ("gpu_power_watts", "Power that the GPU draws.", "power_w"),
    ("gpu_temperature_celsius", "Temperature of the GPU.", "temperature_c"),
    ("gpu_energy_joules", "Energy since the driver was loaded.", "energy_j"),
)


class EngineMetrics(Collector):
    """Engine metrics: the engine's own figures, and the face's where the engine tells none.

    An engine that answers devices over the link too counts them all; the face sees only its own.
    """

    def __init__(self, prefix: str, engine: Engine | None, seen: FaceGauges) -> None:
        self._prefix, self._engine, self._seen = prefix, engine, seen
        self._energy = EnergyMeter()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they stand now."""
        load = self._engine.report() if isinstance(self._engine, LoadReporting) else None
        running = load.num_running if load else self._seen.running.value
        waiting = load.num_waiting if load else self._seen.waiting.value
        yield self._gauge("num_requests_running", "Answers being written now.", running)
        yield self._gauge(
            "num_requests_waiting", "Requests not yet begun.", waiting + self._seen.queued.value
        )
        if self._engine is not None:
            up = fault_of(self._engine) is None
            yield self._gauge("engine_up", "1 while it can answer, 0 once it is broken.", up)
        yield from self._of_gpus(read_gpus())
        yield from self._of_energy(self._energy.read())
        if isinstance(self._engine, Replicated):
            yield self._replicas(self._engine.replica_counts())
        if load is not None:
            yield from self._of_engine(load)

    def _of_engine(self, load: EngineLoad) -> Iterator[Metric]:
        yield self._gauge("num_batch_requests", "Requests of batch work.", load.num_batch)
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

    def _of_gpus(self, gpus: list[GpuReading]) -> Iterator[Metric]:
        for name, text, field in _GPU_GAUGES if gpus else ():
            gauge = GaugeMetricFamily(f"{self._prefix}:{name}", text, labels=["gpu", "name"])
            for gpu in gpus:
                if (value := getattr(gpu, field)) is not None:
                    gauge.add_metric([str(gpu.index), gpu.name], value)
            yield gauge

    def _of_energy(self, joules: dict[str, float]) -> Iterator[Metric]:
        text = "Joules of the whole machine since the start, by who counts them."
        counter = CounterMetricFamily(f"{self._prefix}:energy_joules", text, labels=["source"])
        for source, value in joules.items():
            counter.add_metric([source], value)
        yield counter

    def _replicas(self, counts: dict[str, int]) -> Metric:
        gauge = GaugeMetricFamily(
            f"{self._prefix}:replicas", "Engine processes by their state.", labels=["state"]
        )
        for state, count in counts.items():
            gauge.add_metric([state], count)
        return gauge

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"{self._prefix}:{name}", text, value=value)


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SHORT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 40)
_LONG_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 240, 480, 960)
_TIMES = {
    "time_to_first_token_seconds": ("Until the first piece of text could be sent.", _SHORT_S),
    "inter_token_latency_seconds": ("Between one piece of text and the next.", _SHORT_S),
    "request_time_per_output_token_seconds": ("After the first token, for each other.", _SHORT_S),
    "e2e_request_latency_seconds": ("From a request to the end of its answer.", _LONG_S),
    "request_queue_time_seconds": ("Waiting for the engine, as it says.", _LONG_S),
    "request_prefill_time_seconds": ("Reading the prompt, as the engine says.", _LONG_S),
    "request_decode_time_seconds": ("Writing the answer, as the engine says.", _LONG_S),
}


class Metrics:
    """Metrics of one endpoint, in a registry of their own."""

    def __init__(self, engine: Engine | None = None, *, prefix: str = "nearfar") -> None:
        """With an engine that reports its load, its figures are told too."""
        self.registry = CollectorRegistry()
        self._prefix = prefix
        self.running, self.waiting, self.queued = Gauge(), Gauge(), Gauge()
        seen = FaceGauges(self.running, self.waiting, self.queued)
        self.registry.register(EngineMetrics(prefix, engine, seen))
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens read.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens written.")
        self.success = self._counter("request_success", "Ended requests.", "finished_reason")
        self.routed = self._counter(
            "requests_routed", "Who answered, and why.", "served_by", "reason"
        )
        self.tenant_requests = self._counter("tenant_requests", "Requests of each key.", "tenant")
        self.tenant_tokens = self._counter(
            "tenant_tokens", "Tokens read and written for each key.", "tenant"
        )
        self.responses = self._counter("http_responses", "HTTP answers.", "path", "status")
        self._times = {
            name: Histogram(f"{prefix}:{name}", text, buckets=buckets, registry=self.registry)
            for name, (text, buckets) in _TIMES.items()
        }

    def page(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def observe(self, name: str, seconds: float) -> None:
        """Note one duration of the histogram of this name."""
        self._times[name].observe(seconds)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"{self._prefix}:{name}", text, labels, registry=self.registry)


class AnswerTimer:
    """Timer of one answer: waiting until its first text, then running until the block is left."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ended = False

    def __enter__(self) -> AnswerTimer:
        self._started_s = time.monotonic()
        self._first_s = self._last_s = 0.0
        self._metrics.waiting.inc()
        return self

    def see(self, item: Delta | Finish) -> None:
        """Note the next item of the answer."""
        if isinstance(item, Finish):
            self._end(item)
            return
        now_s = time.monotonic()
        if not self._first_s:
            self._first_s = now_s
            self._metrics.waiting.dec()
            self._metrics.running.inc()
            self._metrics.observe("time_to_first_token_seconds", now_s - self._started_s)
        else:
            self._metrics.observe("inter_token_latency_seconds", now_s - self._last_s)
        self._last_s = now_s

    def _end(self, finish: Finish) -> None:
        self._ended = True
        metrics, usage = self._metrics, finish.usage
        metrics.success.labels(finish.reason).inc()
        metrics.prompt_tokens.inc(max(0, usage.prompt_tokens))
        metrics.generation_tokens.inc(max(0, usage.completion_tokens))
        if finish.route is not None:
            metrics.routed.labels(finish.route.served_by, finish.route.reason).inc()
        metrics.observe("request_queue_time_seconds", usage.queue_s)
        metrics.observe("request_prefill_time_seconds", usage.prefill_s)
        metrics.observe("request_decode_time_seconds", usage.decode_s)
        if self._first_s and usage.completion_tokens > 1:
            rest_s = time.monotonic() - self._first_s
            each_s = rest_s / (usage.completion_tokens - 1)
            metrics.observe("request_time_per_output_token_seconds", each_s)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        (self._metrics.running if self._first_s else self._metrics.waiting).dec()
        took_s = time.monotonic() - self._started_s
        self._metrics.observe("e2e_request_latency_seconds", took_s)
        if not self._ended:
            gone = kind is None or not issubclass(kind, Exception)
            self._metrics.success.labels("abort" if gone else "error").inc()
