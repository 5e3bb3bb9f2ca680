"""What a folder will take of a device's memory, and what is made of it where that is little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from backbone.config import NetworkConfig
from edge.llama.fit import DoesNotFit
from edge.small_gpu.fit import RingPlan, fitting_plan
from edge.small_gpu.options import TorchOptions
from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from quantize.loading import as_coded, read_network
from quantize.model_files import FolderFiles
from tests.tiny_checkpoints import write_checkpoint

CPU, MB = torch.device("cpu"), 1_000_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("fit"), "llama")


def held_bytes(folder: Path, dtype: torch.dtype) -> int:
    network = read_network(FolderFiles(folder), device=CPU, dtype=dtype, made=as_coded)
    tensors = {each.data_ptr(): each for each in (*network.parameters(), *network.buffers())}
    return sum(each.nbytes for each in tensors.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_counted_as_they_will_lie_in_memory(
    dtype: torch.dtype, folder: Path, tmp_path: Path
) -> None:
    few = CalibrationOptions(num_windows=2, window_len=32)
    coded = quantize_gptq(
        folder, tmp_path / "q", options=GptqOptions(group_size=32), calibration=few
    ).path
    assert FolderFiles(folder).weight_bytes(dtype) == pytest.approx(
        held_bytes(folder, dtype), rel=0.01
    )
    assert FolderFiles(coded).weight_bytes(dtype) == pytest.approx(
        held_bytes(coded, dtype), rel=0.1
    )


def plan_in(folder: Path, free_bytes: float, **options: Any) -> RingPlan:
    config = NetworkConfig.load(folder)
    limit = options.pop("limit", 65_536)
    chosen = TorchOptions(device="cpu", **options)
    return fitting_plan(
        FolderFiles(folder),
        config,
        chosen,
        limit=limit,
        dtype=torch.float32,
        free_bytes=int(free_bytes),
    )


def ring_bytes(folder: Path, plan: RingPlan) -> int:
    config = NetworkConfig.load(folder)
    return plan.num_slots * plan.ring(config, device="meta", dtype=torch.float32).num_bytes


def test_a_plan_takes_what_its_rings_then_take(folder: Path) -> None:
    plan = plan_in(folder, 100 * MB, max_num_seqs=2)
    ring = plan.ring(NetworkConfig.load(folder), device=CPU, dtype=torch.float32)
    assert 2 * ring.num_bytes == ring_bytes(folder, plan)


def test_less_memory_holds_less_and_never_more_than_there_is(folder: Path) -> None:
    before = 1 << 62
    for free in (800, 200, 80, 40, 20, 10, 8):
        plan = plan_in(folder, free * MB, max_num_seqs=2)
        total = ring_bytes(folder, plan) + FolderFiles(folder).weight_bytes(torch.float32)
        assert total <= 0.9 * free * MB
        assert plan.limit * plan.num_slots <= before
        before = plan.limit * plan.num_slots


def test_length_goes_before_precision_and_both_before_company(folder: Path) -> None:
    plans, free = [], 800.0 * MB
    with pytest.raises(DoesNotFit, match="close programs"):
        while True:
            plans.append(plan_in(folder, free, max_num_seqs=4))
            free *= 0.9
    at_8_bit = {plan.limit for plan in plans if plan.bits == (8, 8)}
    assert {65_536, 8192, 4096} <= at_8_bit, "8 bits while there is room for 4096 tokens"
    at_4_bit = {plan.limit for plan in plans if plan.bits == (4, 4)}
    assert at_4_bit and max(at_4_bit) <= 4096
    assert [plan.num_slots for plan in plans] == sorted((p.num_slots for p in plans), reverse=True)
    assert plans[0].num_slots == 4 and plans[-1].num_slots == 1


def test_what_was_asked_for_is_not_cut(folder: Path) -> None:
    asked = {"limit": 8192, "max_model_len": 8192, "kv_cache_dtype": "q8_0"}
    assert plan_in(folder, 100 * MB, **asked).limit == 8192
    with pytest.raises(DoesNotFit, match="for 8192 tokens"):
        plan_in(folder, 5 * MB, **asked)
