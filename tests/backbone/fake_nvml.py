"""A stand-in for NVIDIA's binding of NVML, with the functions and the errors that ours reads."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """What each function of the binding raises."""


def fake_nvml(uses: Sequence[int], *, has_driver: bool = True, tells_power: bool = True) -> Any:
    """Return a module with one GPU for each of `uses`, in per cent."""
    made: Any = ModuleType("pynvml")
    made.NVMLError, made.NVML_TEMPERATURE_GPU, made.num_open = NVMLError, 0, 0

    def init() -> None:
        if not has_driver:
            raise NVMLError("Driver Not Loaded")
        made.num_open += 1

    def shutdown() -> None:
        made.num_open -= 1

    def power(index: int) -> int:
        if not tells_power:
            raise NVMLError("Not Supported")
        return 71_500

    made.nvmlInit, made.nvmlShutdown = init, shutdown
    made.nvmlDeviceGetCount = lambda: len(uses)
    made.nvmlDeviceGetHandleByIndex = lambda index: index
    made.nvmlDeviceGetUUID = lambda index: f"GPU-{index}a5f2d10-0000"
    made.nvmlDeviceGetName = lambda index: b"NVIDIA Fake" if index else "NVIDIA Fake"
    made.nvmlDeviceGetUtilizationRates = lambda index: SimpleNamespace(gpu=uses[index], memory=1)
    made.nvmlDeviceGetMemoryInfo = lambda index: SimpleNamespace(used=2**30, total=2**34)
    made.nvmlDeviceGetPowerUsage = power
    made.nvmlDeviceGetTemperature = lambda index, kind: 41
    made.nvmlDeviceGetTotalEnergyConsumption = lambda index: 5_000
    return made
