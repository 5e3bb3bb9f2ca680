"""GPUs as NVML tells them, against a stand-in; no real GPU has been read yet."""

from __future__ import annotations

import sys

import pytest

from backbone.nvml import read_gpus
from serve.metrics import Metrics
from tests.backbone.fake_nvml import fake_nvml


def test_each_gpu_is_read_and_nvml_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml([25, 100])
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    first, second = read_gpus()
    assert (first.utilization, second.utilization) == (0.25, 1.0)
    assert (first.memory_used_bytes, first.memory_total_bytes) == (2**30, 2**34)
    assert (first.power_w, first.temperature_c, first.energy_j) == (71.5, 41, 5.0)
    assert first.name == second.name == "NVIDIA Fake" and nvml.num_open == 0
    assert second.is_named("1") and second.is_named("GPU-1a5f") and not second.is_named("GPU-0a5f")
    assert not second.is_named("") and not second.is_named("GPU-")


def test_what_a_gpu_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([25], tells_power=False))
    (gpu,) = read_gpus()
    assert gpu.power_w is None and gpu.temperature_c == 41


def test_without_a_driver_or_the_package_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([25], has_driver=False))
    assert read_gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_gpus() == []


def test_gpus_are_in_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml([25, 100], tells_power=False))
    page = Metrics().page().decode()
    assert 'nearfar:gpu_utilization{gpu="1",name="NVIDIA Fake"} 1.0' in page
    assert 'nearfar:gpu_memory_used_bytes{gpu="0",name="NVIDIA Fake"} 1.073741824e+09' in page
    assert "nearfar:gpu_power_watts{" not in page
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "nearfar:gpu" not in Metrics().page().decode()
