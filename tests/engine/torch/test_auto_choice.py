"""What "auto" means is measured on this machine once, kept, and told; what fails is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backbone.fused_network import FusedNetwork
from backbone.packed_linear import packs_bfloat16
from cloud.engine.engine import CloudEngine
from engine.engine_choice import Choice, Way, keep_choice, read_choices
from engine.torch import auto_choice, step_timing
from engine.torch.auto_choice import Candidates, measure, settled
from engine.torch.options import EngineOptions
from engine.torch.step_timing import StepKind, TimedWay, step_kinds
from offload.engine import Choosing
from quantize.model_files import FolderFiles
from tests.tiny_checkpoints import write_checkpoint

CPU = EngineOptions(device="cpu")
USUAL = Way(dtype="float32", attention_backend="torch")
needs_bfloat16 = pytest.mark.skipif(not packs_bfloat16(), reason="no bfloat16 products here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auto") / "model"
    config = write_checkpoint(path, "qwen2") / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"bfloat16"'))
    return path


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], list[str]]:
    """Let steps of each type take so many seconds; the list tells what was timed."""
    monkeypatch.setattr(auto_choice, "_WORTH_BYTES", 0)
    monkeypatch.setattr(step_timing, "_SAMPLE_BYTES", 1)

    def set_times(seconds: dict[str, float]) -> list[str]:
        asked: list[str] = []

        def of(self: TimedWay, kind: StepKind) -> float:
            network = self._runner.network
            is_fused = isinstance(network, FusedNetwork)
            weight = network.embedding if is_fused else network.embed_tokens.weight
            dtype = str(weight.dtype).removeprefix("torch.")
            asked.append(dtype)
            apart = 1.0 if is_fused else seconds.get("apart", 1.5)
            alone = seconds.get(f"{dtype} alone", 1.0) if kind.batch == 1 else 1.0
            return seconds[dtype] * kind.batch * apart * alone

        monkeypatch.setattr(TimedWay, "seconds", of)
        return asked

    return set_times


@needs_bfloat16
@pytest.mark.parametrize("quicker", ["float32", "bfloat16"])
def test_the_quicker_type_is_taken_and_measured_once(
    folder: Path, tmp_path: Path, timed: Callable[..., list[str]], quicker: str
) -> None:
    asked = timed({"float32": 2.0, "bfloat16": 2.0} | {quicker: 1.0})
    options, choice = settled(FolderFiles(folder), CPU, tmp_path / "kept.json")
    assert (options.dtype, choice.way.dtype, choice.measured) == (quicker, quicker, True)
    assert options.fuse_operators and not options.async_scheduling and options.enforce_eager
    assert set(asked) == {"float32", "bfloat16"}
    assert "measured here" in str(choice) and "2.00x the time" in str(choice)
    asked.clear()
    assert settled(FolderFiles(folder), CPU, tmp_path / "kept.json") == (options, choice)
    assert not asked
    other = EngineOptions(device="cpu", kv_cache_dtype="int8")
    settled(FolderFiles(folder), other, tmp_path / "kept.json")
    assert asked, "another option is another choice"


@needs_bfloat16
def test_what_raises_or_differs_is_left_out_and_named(
    folder: Path,
    tmp_path: Path,
    timed: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed({"float32": 2.0, "bfloat16": 1.0})
    right = TimedWay.logits

    def wrong(self: TimedWay) -> torch.Tensor:
        is_half = self._runner.network.embedding.dtype == torch.bfloat16
        return right(self) * (1.5 if is_half else 1)

    monkeypatch.setattr(TimedWay, "logits", wrong)
    _, choice = settled(FolderFiles(folder), CPU, tmp_path / "a.json")
    assert choice.way.dtype == "float32"
    assert "bfloat16/torch left out: its logits are off by 0.5" in str(choice)

    def broken(self: TimedWay) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(TimedWay, "logits", broken)
    options, choice = settled(FolderFiles(folder), CPU, tmp_path / "b.json")
    assert options.dtype == "float32" and not choice.measured
    assert {name: why for name, why in choice.dropped.items() if "/" in name} == {
        f"{dtype}/torch": "it raised RuntimeError" for dtype in ("float32", "bfloat16")
    }
    assert not (tmp_path / "b.json").exists(), "what is not sure is not kept"


@needs_bfloat16
def test_without_time_the_default_serves_and_is_measured_again(
    folder: Path,
    tmp_path: Path,
    timed: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timed({"float32": 2.0, "bfloat16": 1.0})
    monkeypatch.setattr(auto_choice, "BUDGET_S", 0.0)
    options, choice = settled(FolderFiles(folder), CPU, tmp_path / "kept.json")
    assert (options.dtype, choice.measured) == ("float32", False)
    assert not (tmp_path / "kept.json").exists()


@needs_bfloat16
def test_what_is_slower_for_one_answer_is_not_taken_however_quick_for_many(
    folder: Path, tmp_path: Path, timed: Callable[..., list[str]]
) -> None:
    timed({"float32": 2.0, "bfloat16": 1.0, "bfloat16 alone": 2.2})
    _, choice = settled(FolderFiles(folder), CPU, tmp_path / "a.json")
    assert choice.way == USUAL and choice.measured
    timed({"float32": 2.0, "bfloat16": 1.98})
    _, choice = settled(FolderFiles(folder), CPU, tmp_path / "b.json")
    assert choice.way == USUAL, "a difference of one in a hundred is noise"


def test_a_switch_is_tried_on_the_quickest_and_told(
    folder: Path, tmp_path: Path, timed: Callable[..., list[str]]
) -> None:
    timed({"float32": 2.0, "bfloat16": 2.0, "apart": 0.5})
    options, choice = settled(FolderFiles(folder), CPU, tmp_path / "kept.json")
    assert options.fuse_operators is False
    assert "operators apart, measured here" in str(choice)
    assert "CUDA graphs left out: they need a GPU" in str(choice)
    assert "overlapped steps left out: a CPU has no queue" in str(choice)
    (kept,) = read_choices(tmp_path / "kept.json").values()
    assert kept == choice and kept.model == "model"
    asked = EngineOptions(device="cpu", fuse_operators=True)
    assert settled(FolderFiles(folder), asked, tmp_path / "kept.json")[0].fuse_operators


def test_real_steps_of_every_switch_run_or_say_why_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_timing, "_SAMPLE_BYTES", 1)
    monkeypatch.setattr(step_timing, "_TURNS", 1)
    config = FolderFiles(folder).network_config()
    switches = ["fuse_operators", "enforce_eager", "async_scheduling"]
    given = EngineOptions(device="cpu", max_num_seqs=8)
    choice, is_sure = measure(config, given, Candidates(ways=[USUAL], switches=switches))
    assert is_sure and {"float32/torch", "float32/torch/operators apart"} <= set(choice.seconds)
    assert any(name.endswith("overlapped steps") for name in choice.seconds)
    (graphs,) = choice.dropped.values()
    assert "CUDA graphs need a GPU" in graphs


def test_the_newest_choices_are_kept(tmp_path: Path) -> None:
    kept = tmp_path / "new" / "kept.json"
    for number in range(70):
        keep_choice(kept, str(number), Choice(way=USUAL, model=f"m{number}"))
    assert [*read_choices(kept)] == [str(number) for number in range(6, 70)]


def test_what_was_asked_for_decides_and_small_models_are_not_measured(
    folder: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.json"
    _, choice = settled(FolderFiles(folder), CPU, kept)
    assert choice == Choice(way=USUAL, measured=False)
    asked = EngineOptions(device="cpu", dtype="float16")
    assert settled(FolderFiles(folder), asked, kept)[0].dtype == "float16"
    kept.write_text("damaged")
    assert settled(FolderFiles(folder), CPU, kept)[1] == choice


def test_real_steps_of_every_kind_are_timed_and_the_piece_computes_as_the_plain_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_timing, "_SAMPLE_BYTES", 1)
    config = step_timing.sample_config(FolderFiles(folder).network_config())
    options = EngineOptions(device="cpu", dtype="float32", attention_backend="torch")
    weights = step_timing.SampleWeights(config, torch.device("cpu"))
    way = TimedWay(weights, config, options)
    expected = step_timing.reference_logits(weights, config)
    torch.testing.assert_close(way.logits(), expected, atol=1e-3, rtol=1e-3)
    for kind in step_kinds(128):
        assert way.seconds(kind) > 0


async def test_the_engine_tells_what_it_chose(folder: Path) -> None:
    engine = CloudEngine(folder, options=CPU)
    assert isinstance(engine, Choosing)
    assert engine.chosen() == "float32, attention torch, not measured"
    await engine.aclose()
