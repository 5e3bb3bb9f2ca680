"""Folders that cannot be run: one line that says what is wrong, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backbone.errors import CheckpointError, NearfarError
from edge.llama.fit import DoesNotFit
from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from offload.errors import SettingsError
from offload.messages import Request
from quantize.calibration import CalibrationOptions
from quantize.gptq import GptqOptions
from quantize.gptq_folder import quantize_gptq
from tests.tiny_checkpoints import write_checkpoint

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("whole"), "llama")


@pytest.fixture(scope="module")
def coded(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = CalibrationOptions(num_windows=2, window_len=32)
    options = GptqOptions(group_size=32)
    folder = tmp_path_factory.mktemp("coded") / "q"
    quantize_gptq(whole, folder, options=options, calibration=few)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    shards = list(folder.glob("*.safetensors"))
    tensors = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    for shard in shards:
        shard.unlink()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


@pytest.fixture
def spoil(tmp_path: Path) -> Callable[[Path], Path]:
    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "spoilt"))

    return copy


def opened(folder: Path, **options: Any) -> TorchEdgeEngine:
    return TorchEdgeEngine(folder, options=TorchOptions(device="cpu", **options))


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensor(
    folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]
) -> None:
    tensors = load_file(folder / WEIGHTS)
    key = next(each for each in tensors if each.endswith(name))
    changed = change(tensors.pop(key))
    if changed is not None:
        tensors[key] = changed.contiguous()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(NearfarError) as caught:
        opened(folder, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


@pytest.mark.parametrize("kind", ["whole", "coded"])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("no tokenizer", "tokenizer.json"),
        ("no weights", "model.safetensors"),
        ("no shard", "shard"),
        ("truncated", "truncated or damaged"),
        ("no header", "truncated or damaged"),
        ("no config", "config.json"),
        ("bad config", "not valid JSON"),
    ],
)
def test_a_folder_that_is_not_whole(
    kind: str, damage: str, expected: str, spoil: Any, request: pytest.FixtureRequest
) -> None:
    folder = spoil(request.getfixturevalue(kind))
    weights = folder / WEIGHTS
    if damage == "no shard":
        index = {"weight_map": {"a": WEIGHTS, "b": "model-00002-of-00002.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "no header":
        weights.write_bytes(b"\xff" * 4000)
    elif damage == "bad config":
        (folder / "config.json").write_text("{")
    else:
        name = {"no tokenizer": "tokenizer.json", "no weights": WEIGHTS, "no config": "config.json"}
        (folder / name[damage]).unlink()
    assert expected in refusal(folder)


@pytest.mark.parametrize("kind", ["whole", "coded"])
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 128, "head_dim": 16},
        {"num_hidden_layers": 4},
        {"num_hidden_layers": 2},
        {"intermediate_size": 64},
        {"num_key_value_heads": 4},
        {"vocab_size": 319},
        {"vocab_size": 400},
        {"hidden_size": "many"},
    ],
    ids=str,
)
def test_a_config_that_contradicts_the_tensors(
    kind: str, changes: dict[str, Any], spoil: Any, request: pytest.FixtureRequest
) -> None:
    folder = spoil(request.getfixturevalue(kind))
    change_config(folder, **changes)
    assert refusal(folder)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("q_proj.qweight", lambda t: t[:-1]),
        ("q_proj.g_idx", lambda t: t + 7),
        ("q_proj.g_idx", lambda t: t[:-1]),
        ("q_proj.scales", lambda t: None),
        ("q_proj.qzeros", lambda t: t[:, :-1]),
        ("norm.weight", lambda t: None),
    ],
    ids=str,
)
def test_a_quantized_matrix_whose_parts_do_not_fit(
    name: str, change: Any, coded: Path, spoil: Any
) -> None:
    folder = spoil(coded)
    change_tensor(folder, name, change)
    assert refusal(folder)


def test_a_quantization_without_its_width(coded: Path, spoil: Any) -> None:
    folder = spoil(coded)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    del config["bits"]
    change_config(folder, quantization_config=config)
    assert "cannot be read" in refusal(folder)


def test_numbers_that_overflow_are_told_and_the_engine_stays(coded: Path, spoil: Any) -> None:
    folder = spoil(coded)
    change_tensor(folder, "layers.1.self_attn.q_proj.scales", lambda t: t * float("nan"))
    engine = opened(folder, fast_linear=False)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no number"):
            list(engine.answer(Request(prompt="the cat")))
    engine.close()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_model_len": 1_000_000}, "trained for 128"),
        ({"max_model_len": 3}, "at least 64"),
        ({"max_model_len": -1}, "between 0"),
        ({"max_num_seqs": 0}, "between 1"),
        ({"max_draft_tokens": -1}, "between 0"),
    ],
)
def test_an_absurd_context(options: dict[str, Any], expected: str, whole: Path) -> None:
    with pytest.raises(SettingsError, match=expected):
        opened(whole, **options)


def test_an_absurd_trained_context_is_cut_to_what_fits(whole: Path, spoil: Any) -> None:
    folder = spoil(whole)
    change_config(folder, max_position_embeddings=10**8)
    engine = opened(folder)
    assert 64 <= engine.card().max_model_len < 10**8
    engine.close()
    change_config(folder, max_position_embeddings=10**12)
    with pytest.raises(CheckpointError, match="more than any model has"):
        opened(folder)


@pytest.mark.parametrize("device", ["cuda:7", "tpu", "meta"])
def test_a_device_that_is_not_there(device: str, whole: Path) -> None:
    with pytest.raises(SettingsError, match="device"):
        TorchEdgeEngine(whole, options=TorchOptions(device=device))


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.small_gpu.runtime.free_bytes_of", lambda device: 200_000)
    with pytest.raises(DoesNotFit, match=r"MB more memory than is free .* close programs"):
        opened(whole)
    opened(whole, check_memory=False).close()


def test_memory_that_runs_out_while_loading_is_told(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("edge.small_gpu.runtime.read_network", full)
    with pytest.raises(DoesNotFit, match="memory is full"):
        opened(whole)
