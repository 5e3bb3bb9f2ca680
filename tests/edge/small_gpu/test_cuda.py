"""The torch runtime on a GPU; where there is none, what can be known of it without."""

from __future__ import annotations

import asyncio
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from backbone.config import NetworkConfig
from backbone.network import Network
from edge.llama.fit import DoesNotFit
from edge.small_gpu.device import device_of, dtype_of, free_bytes_of
from edge.small_gpu.options import TorchOptions
from edge.small_gpu.runtime import TorchEdgeEngine
from engine.torch.kv.ring_cache import Ring
from engine.torch.request_state import Item
from engine.window import Pins
from offload.messages import Delta, Finish, Message, Request, Sampling
from offload.pair import CLOUD_MODEL
from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions, QuantizedMatrix
from quantize.gptq_folder import quantize_gptq
from quantize.model_files import model_files
from quantize.quantized_linear import GptqLinear, Int8Linear, TableLinear

on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
QUESTIONS = tuple(f"What is {n} + {3 * n}?" for n in (4821, 17, 250, 999))
ELSEWHERE = torch.device("meta")  # stands for any device that is not the CPU


def coded(kind: str, rows: int, columns: int) -> nn.Module:
    codes = torch.zeros(rows, columns, dtype=torch.uint8)
    if kind == "int8":
        return Int8Linear(codes.to(torch.int8), torch.ones(rows), bias=torch.ones(rows))
    if kind == "nf4":
        blocks = torch.ones(rows * columns // 16)
        return TableLinear(codes[:, ::2], torch.zeros(16), blocks, shape=(rows, columns))
    matrix = QuantizedMatrix(
        codes=codes,
        scales=torch.ones(1, rows),
        zeros=torch.zeros(1, rows, dtype=torch.int32),
        group_of=torch.zeros(columns, dtype=torch.int32),
        error=0.0,
        damping=0.0,
        num_dead=0,
    )
    return GptqLinear(matrix, bits=4, bias=torch.ones(rows))


@pytest.mark.parametrize("bits", [(16, 16), (8, 8), (4, 4), (2, 2)])
@pytest.mark.parametrize("kind", ["plain", "gptq", "int8", "nf4"])
def test_no_step_mixes_devices(kind: str, bits: tuple[int, int]) -> None:
    """A stray tensor of the CPU among those of another device is an error there."""
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, device=ELSEWHERE) + torch.zeros(2)
    config = NetworkConfig.load(CLOUD_MODEL)
    with ELSEWHERE:
        network = Network(config).to(torch.float16)
    if kind != "plain":
        for block in network.layers:
            gate = block.mlp.gate_proj
            block.mlp.gate_proj = coded(kind, *gate.weight.shape).to(ELSEWHERE)
    sizes: dict[str, Any] = {"limit": 128, "block": 8, "residual": 8, "chunk": 16}
    ring = Ring(config, bits=bits, device=ELSEWHERE, dtype=torch.float16, **sizes)
    pins = Pins(num_first=12, last_start=0, last_end=0)
    for _ in range(30):
        assert ring.make_room(6, pins)
        ids = torch.zeros(6, dtype=torch.int64, device=ELSEWHERE)
        hidden = network(ids, torch.zeros_like(ids), ring.attend)
        ring.advance(6)
        ring.settle()
    assert ring.dropped > 0 and isinstance(ring.places, torch.Tensor), "it went round"
    assert network.logits(hidden).device == ELSEWHERE and hidden.dtype == torch.float16


def test_gpus_without_bfloat16_get_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, expected in (((7, 5), torch.float16), ((8, 7), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        files = model_files(CLOUD_MODEL)
        assert dtype_of(TorchOptions(), torch.device("cuda"), files) is expected


def test_the_gpus_own_free_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1_000_000, 8_000_000))
    assert free_bytes_of(torch.device("cuda")) == 1_000_000
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert device_of(TorchOptions()) == torch.device("cuda")
    with pytest.raises(DoesNotFit, match="MB of weights"):
        TorchEdgeEngine(CLOUD_MODEL)


def asked(text: str, **sampling: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), sampling=Sampling(**sampling))


def answers(folder: Path, **options: Any) -> list[str]:
    """Return what is answered to all questions at once."""

    async def read(engine: TorchEdgeEngine, text: str) -> str:
        items = [item async for item in engine.generate(asked(text))]
        return "".join(item.text for item in items if isinstance(item, Delta))

    async def all_of(engine: TorchEdgeEngine) -> list[str]:
        return list(await asyncio.gather(*(read(engine, text) for text in QUESTIONS)))

    engine = TorchEdgeEngine(folder, options=TorchOptions(max_num_seqs=4, **options))
    try:
        return asyncio.run(all_of(engine))
    finally:
        engine.close()


class TestOnCuda:
    pytestmark = on_gpu

    @pytest.mark.parametrize("kind", ["f16", "int8", "int4"])
    def test_the_gpu_answers_as_the_cpu(self, kind: str) -> None:
        same = {"kv_cache_dtype": kind, "dtype": "float32"}
        assert answers(CLOUD_MODEL, device="cuda", **same) == answers(
            CLOUD_MODEL, device="cpu", **same
        )

    def test_bfloat16_still_adds(self) -> None:
        found = answers(CLOUD_MODEL, device="cuda", dtype="bfloat16")
        assert found[1].endswith("68")

    def test_int4_weights_stay_so(self, tmp_path: Path) -> None:
        few = CalibrationOptions(num_windows=4, window_len=64)
        options = GptqOptions(group_size=64)
        folder = quantize_gptq(CLOUD_MODEL, tmp_path / "q", options=options, calibration=few).path
        same = {"kv_cache_dtype": "f16", "dtype": "float32", "fast_linear": False}
        assert answers(folder, device="cuda", **same) == answers(folder, device="cpu", **same)

    def test_a_written_token_waits_for_the_gpu_once(self) -> None:
        engine = TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(device="cuda"))
        batch, _ = engine.make_batching()
        posts: list[Item] = []
        request = asked("Hello!", max_tokens=20, logit_bias={0: -100.0})
        batch.add(engine.make_state(request, posts.append, time.monotonic()))
        while len(posts) < 5:
            batch.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                batch.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = [each for each in caught if "synchroniz" in str(each.message)]
        assert len(posts) == 6 and len(waits) == 1
        engine.close()

    def test_a_model_larger_than_the_gpu_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        total = torch.cuda.mem_get_info()[1]
        monkeypatch.setattr(
            "quantize.model_files.FolderFiles.weight_bytes", lambda files, dtype: 2 * total
        )
        with pytest.raises(DoesNotFit):
            TorchEdgeEngine(CLOUD_MODEL, options=TorchOptions(device="cuda"))

    def test_a_conversation_comes_back_from_disk(self, tmp_path: Path) -> None:
        options = TorchOptions(device="cuda", session_folder=tmp_path)
        cached = []
        for _ in range(2):
            engine = TorchEdgeEngine(CLOUD_MODEL, options=options)
            messages = (Message(role="user", content="Sort 9, 3, 7, 5, 1. " * 4),)
            *_, finish = engine.answer(Request(messages=messages, session="s"))
            engine.close()
            assert isinstance(finish, Finish)
            cached.append(finish.usage.cached_tokens)
        assert cached[0] == 0 < cached[1]
