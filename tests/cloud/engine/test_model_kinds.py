"""Every kind of model file is served: GGUF like its folder, GPTQ like its decoded network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backbone.attention import causal_attention
from backbone.errors import CheckpointError
from cloud.endpoint import open_engine
from cloud.endpoint_options import EndpointOptions
from cloud.engine.engine import CloudEngine
from engine.torch import memory
from engine.torch.memory import plan_memory
from engine.torch.options import EngineOptions
from quantize.calibration import CalibrationOptions
from quantize.gguf import convert
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from quantize.loading import as_decoded, read_network
from quantize.model_files import FolderFiles
from quantize.packed_products import quickest
from tests.cloud.golden import answer, ask, reference_tokens, tokens_of
from tests.tiny_checkpoints import write_checkpoint

CPU = EngineOptions(device="cpu")
FEW = CalibrationOptions(num_windows=2, window_len=32)
PROMPTS = ("the cat", "what is seventeen plus twenty-five, and how many seconds has an hour?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("kinds") / "model", "llama-tied")


@pytest.fixture(scope="module")
def gguf(folder: Path) -> Path:
    convert(folder, folder.with_name("model.gguf"), kind="f32")
    return folder.with_name("model.gguf")


@pytest.fixture(scope="module")
def gptq(folder: Path) -> Path:
    options = GptqOptions(group_size=32)
    return quantize_gptq(folder, folder.with_name("int4"), options=options, calibration=FEW).path


async def written(engine: CloudEngine, prompt: str, max_tokens: int = 30) -> list[int]:
    deltas, _ = await answer(engine, ask(prompt, max_tokens=max_tokens))
    return tokens_of(deltas)


async def test_a_gguf_file_writes_what_its_folder_writes(folder: Path, gguf: Path) -> None:
    engine = open_engine(EndpointOptions(model=str(gguf), device="cpu"))
    assert isinstance(engine, CloudEngine)
    for prompt in PROMPTS:
        assert await written(engine, prompt) == reference_tokens(folder, prompt, 30)
    assert (engine.card().quantization, engine.card().chat) == ("f32", True)
    await engine.aclose()


async def test_four_bits_stay_four_bits_and_write_nearly_what_they_decode_to(gptq: Path) -> None:
    engine = CloudEngine(gptq, options=CPU)
    # The packed product rounds its inputs to bfloat16, which a small random network enlarges: the
    # engine is held to that product exactly, and the product to the decoded weights.
    packed, decoded = (read_network(FolderFiles(gptq), made=m) for m in (quickest, as_decoded))
    attend = causal_attention(packed.config)
    for prompt in PROMPTS:
        start = engine.tokenize(prompt)
        whole = start + await written(engine, prompt)
        with torch.no_grad():
            places = torch.arange(len(whole))
            logits, plain = (
                each.logits(each(torch.tensor(whole), places, attend))[len(start) - 1 : -1]
                for each in (packed, decoded)
            )
        found = torch.tensor(whole[len(start) :])
        behind = logits.amax(-1) - logits.gather(-1, found.unsqueeze(-1)).squeeze(-1)
        assert float(behind.max()) < 1e-3 * float(logits.std())
        assert float((logits - plain).std()) < 0.1 * float(plain.std())
    assert engine.card().quantization == "gptq int4"
    assert engine.card().size_bytes < 4 * engine.card().num_parameters
    await engine.aclose()


async def test_four_bits_are_shared_between_processes(gptq: Path) -> None:
    alone, shared = CloudEngine(gptq, options=CPU), None
    try:
        shared = CloudEngine(gptq, options=EngineOptions(device="cpu", tensor_parallel_size=2))
        for prompt in PROMPTS:
            both = [await written(engine, prompt, 8) for engine in (alone, shared)]
            assert both[0] == both[1]
    finally:
        await alone.aclose()
        if shared is not None:
            await shared.aclose()


def test_memory_is_planned_for_each_kind(folder: Path, gguf: Path, gptq: Path) -> None:
    plain, from_file, coded = (plan_memory(path, CPU) for path in (folder, gguf, gptq))
    assert from_file.weight_bytes == plain.weight_bytes > coded.weight_bytes


def test_weights_larger_than_the_memory_are_told_before_they_are_read(
    folder: Path, gptq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = FolderFiles(folder).weight_bytes(torch.float32)
    for free, words in ((needed * 2 // 3, "dtype=bfloat16"), (needed // 5, "quantize gptq")):
        monkeypatch.setattr(memory, "free_memory_bytes", lambda free=free: free)
        with pytest.raises(CheckpointError, match=rf"are free; .*{words}"):
            CloudEngine(folder, options=CPU)
    monkeypatch.setattr(memory, "free_memory_bytes", lambda: 10)
    with pytest.raises(CheckpointError, match="choose a smaller model"):
        CloudEngine(gptq, options=CPU)


def test_a_name_that_is_neither_a_folder_nor_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    for model in ("nowhere", str(tmp_path / "model.bin")):
        with pytest.raises(CheckpointError, match=r"no folder and no \.gguf file"):
            open_engine(EndpointOptions(model=model, device="cpu"))
