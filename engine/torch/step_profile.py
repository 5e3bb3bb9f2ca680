"""Profile of an engine's steps: where their time goes, by operator, as a trace to look at."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from offload.errors import SettingsError

_log = logging.getLogger(__name__)

WARM_UP, STEPS = 8, 24  # the first steps allocate and compile: they say nothing of later ones


class StepProfile:
    """Step profile: runs each step of an engine, and records some of them once it is warm.

    What it writes at their end is in Chrome's trace format, which https://ui.perfetto.dev and
    chrome://tracing show; the log gets the operators that took most time. Recording makes those
    steps slower, others not. Raises SettingsError for a file that cannot be written.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            with path.open("ab"):  # now, and not behind the steps
                pass
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be written ({error.strerror}); give --profile a file in a folder "
                "that is there"
            ) from None
        self._path = path
        self._is_cuda = device.type == "cuda"
        self._num_steps = 0
        self._profiler: profile | None = None

    def step(self, run: Callable[[], None]) -> None:
        """Run a step."""
        if self._num_steps == WARM_UP:
            self._start()
        try:
            run()
        finally:
            self._num_steps += 1
            if self._num_steps == WARM_UP + STEPS:
                self.close()

    def close(self) -> None:
        """Write what was recorded, if anything was; a failure is a line of the log."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        if self._is_cuda:
            torch.cuda.synchronize()
        profiler.stop()
        part = self._path.with_name(f"{self._path.name}.part")
        try:
            profiler.export_chrome_trace(str(part))
            # A full disk leaves a short file, and torch says nothing of it.
            if not part.stat().st_size or not part.read_bytes().rstrip().endswith(b"}"):
                raise OSError(0, "no space, or cut short")
            os.replace(part, self._path)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            _log.warning("nearfar: the profile could not be written to %s (%s)", self._path, error)
            return
        count, top = self._num_steps - WARM_UP, self._top(profiler)
        _log.warning("nearfar: profile of %d steps in %s\n%s", count, self._path, top)

    def _start(self) -> None:
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * self._is_cuda
        self._profiler = profile(activities=kinds)
        self._profiler.start()

    def _top(self, profiler: profile, count: int = 10) -> str:
        """Return the operators that took most time, a line each."""

        def took(event: torch.autograd.profiler_util.FunctionEventAvg) -> float:
            return float(
                event.self_device_time_total if self._is_cuda else event.self_cpu_time_total
            )

        events = sorted(profiler.key_averages(), key=took, reverse=True)
        total = sum(map(took, events)) or 1.0
        return "\n".join(
            f"{took(event) / total:6.1%} {took(event) / 1000:9.1f} ms {event.count:7d}x {event.key}"
            for event in events[:count]
        )
