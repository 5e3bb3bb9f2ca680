"""Model files that cannot be: each is one line with its reason, and none is waited for."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backbone import errors
from backbone.config import NetworkConfig
from backbone.errors import CheckpointError
from edge.llama.gguf_file import check_header
from edge.models.model_contents import read_contents, read_folder
from edge.near.rule_choice import content_of
from offload.config.settings import Settings
from offload.pair import CLOUD_MODEL, EDGE_MODEL
from quantize.gguf import convert
from quantize.gguf_reader import inspect
from quantize.loading import read_network
from quantize.model_files import model_files
from quantize.weights import read_config, stored_tensors

DEEP = "[" * 200_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(CLOUD_MODEL, tmp_path / "model"))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def with_setting(value: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("deep") + struct.pack("<I", 9) + value


@pytest.mark.parametrize("read", [NetworkConfig.load, read_folder, read_config])
def test_deep_json_is_one_line(folder: Path, read: Callable[[Path], object]) -> None:
    (folder / "config.json").write_text(DEEP)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read(folder)


@pytest.mark.parametrize("read", [read_folder, stored_tensors])
def test_a_deep_head_of_weights_is_one_line(folder: Path, read: Callable[[Path], object]) -> None:
    head = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_deep_tokenizer_is_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).write_text(DEEP)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        convert(folder, tmp_path / "m.gguf", kind="f32")


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", 10**9), ("vocab_size", 10**15), ("num_attention_heads", 10**12)],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_made(
    folder: Path, tmp_path: Path, name: str, value: int
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(CheckpointError, match=f"{name} is {value} in config.json"):
        NetworkConfig.load(folder)
    if name != "num_attention_heads":
        with pytest.raises(CheckpointError, match=f"{name} is {value} in config.json"):
            convert(folder, tmp_path / "m.gguf", kind="f32")


@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<IQ", 9, 1) * 5000 + struct.pack("<IQ", 4, 0),
        struct.pack("<IQ", 9, 2**40),
        struct.pack("<IQ", 8, 2**30) + text("a"),
    ],
)
def test_lists_within_lists_and_without_end_are_one_line(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "deep.gguf"
    path.write_bytes(with_setting(value))
    for read in (read_contents, inspect):
        with pytest.raises(CheckpointError, match="fetch"):
            read(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_no_model_and_is_not_waited_for(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    for call in (check_header, read_contents):
        with pytest.raises(CheckpointError, match="a pipe or a device"):
            call(tmp_path / "m.gguf")
    with pytest.raises(CheckpointError, match="a pipe or a device"):
        convert(tmp_path / "m.gguf", tmp_path / "n.gguf", kind="q8_0")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    for read in (read_folder, stored_tensors):
        with pytest.raises(CheckpointError):
            read(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_the_policy_of_a_folder_waits_for_no_pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert content_of(folder, Settings()) == "0" * 32


def test_a_folder_of_more_tensors_than_any_model_is_refused_by_all_that_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(CLOUD_MODEL / name, tmp_path / name)
    monkeypatch.setattr(errors, "MAX_TENSORS", 7)
    readers: tuple[Callable[[], object], ...] = (
        lambda: read_folder(tmp_path),
        lambda: stored_tensors(tmp_path),
        lambda: model_files(tmp_path).weight_bytes(torch.float32),
        lambda: read_network(model_files(tmp_path)),
        lambda: read_contents(EDGE_MODEL),
        lambda: model_files(EDGE_MODEL).network_config(),
    )
    for read in readers:
        with pytest.raises(CheckpointError, match="at most 7"):
            read()
