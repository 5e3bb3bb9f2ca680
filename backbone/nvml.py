"""NVML: how busy each NVIDIA GPU is, its memory, power, temperature and energy; none without one.

The extra `nvml` brings NVIDIA's own binding (`pynvml`); libnvidia-ml comes with the driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """Reading of one GPU at one moment; what its driver does not tell is None."""

    index: int
    uuid: str
    name: str
    utilization: float | None  # share of the last moments in which a kernel ran, 0 to 1
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    power_w: float | None
    temperature_c: float | None
    energy_j: float | None  # since the driver was loaded

    def is_named(self, name: str) -> bool:
        """Whether CUDA_VISIBLE_DEVICES means this GPU by a number, or the beginning of its UUID."""
        return name == str(self.index) or (len(name) > 4 and self.uuid.startswith(name))


def read_gpus() -> list[GpuReading]:
    """Return a reading of every GPU; an empty list without the extra, a driver or a GPU."""
    with _nvml() as nvml:
        if nvml is None:
            return []
        return [_reading(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    try:
        import pynvml
    except ModuleNotFoundError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _reading(nvml: Any, index: int) -> GpuReading:
    gpu = nvml.nvmlDeviceGetHandleByIndex(index)

    def told(read: Callable[[], float]) -> Any:
        try:
            return read()
        except nvml.NVMLError:  # which not every GPU can tell
            return None

    celsius = nvml.NVML_TEMPERATURE_GPU
    return GpuReading(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(gpu)),
        name=_text(nvml.nvmlDeviceGetName(gpu)),
        utilization=told(lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
        memory_used_bytes=told(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used),
        memory_total_bytes=told(lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).total),
        power_w=told(lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000),
        temperature_c=told(lambda: nvml.nvmlDeviceGetTemperature(gpu, celsius)),
        energy_j=told(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000),
    )


def _text(said: str | bytes) -> str:
    return said.decode() if isinstance(said, bytes) else said
