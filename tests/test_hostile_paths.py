"""Every command that takes a file refuses what is none, or has no end, in one line and at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from offload.pair import CLOUD_MODEL
from tests.in_process import Run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")

FOLDER = str(CLOUD_MODEL)
READ = [
    "policy learn --prompts PATH",
    "policy answers --questions PATH --out HERE/out.jsonl",
    "policy calibrate --questions PATH",
    "policy evaluate --outcomes PATH --fit PATH",
    "policy evaluate --rewards PATH",
    "policy evaluate --answers PATH --far PATH",
    "policy replay --policy PATH",
    "ask hi -f PATH",
    "ask hi -m PATH",
    "ask hi --draft PATH",
    "ask hi --lora PATH",
    "models show PATH",
    "bench hybrid PATH",
    "bench edge --kv --text PATH",
    "quantize gguf PATH HERE/out.gguf",
    f"quantize gguf {FOLDER} HERE/out.gguf --importance PATH",
    "quantize smooth-keys PATH HERE/out.gguf",
    "quantize importance PATH HERE/out.dat",
    f"quantize importance {FOLDER} HERE/out.dat --text PATH",
    "quantize gptq PATH HERE/out",
    f"quantize gptq {FOLDER} HERE/out --text PATH",
    "quantize plan PATH --target-bpw 5",
    f"quantize report {FOLDER} --reference {FOLDER} --text PATH",
    "cloud serve --model PATH --bind tcp://127.0.0.1:0",
    "cloud memory PATH",
]
WRITTEN = [
    "policy answers --questions QUESTIONS --out PATH",
    "bench hybrid QUESTIONS --report PATH",
    f"quantize gguf {FOLDER} PATH",
    f"quantize gguf {FOLDER} PATH --force",
    f"quantize importance {FOLDER} PATH",
    f"quantize plan {FOLDER} --target-bpw 5 --state PATH",
    f"quantize report {FOLDER} --reference {FOLDER} --text QUESTIONS --picture PATH",
    "cloud bench --base-url http://127.0.0.1:1/v1 --result-file PATH",
]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5_000_000_000)


def loop(path: Path) -> None:
    path.symlink_to(path)


def sparse_folder(path: Path) -> None:
    path.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "generation_config.json"):
        sparse(path / name)


def folder_of_pipes(path: Path) -> None:
    path.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        os.mkfifo(path / name)


MAKE: list[Callable[[Path], None]] = [
    pipe,
    Path.mkdir,
    sparse,
    loop,
    sparse_folder,
    folder_of_pipes,
]


def outcome(run: Run, command: str, path: Path, folder: Path) -> str:
    """Run a command on a path; return the one line that it ends with."""
    questions = folder / "questions.jsonl"
    questions.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    words = {"PATH": str(path), "HERE": str(folder), "QUESTIONS": str(questions)}
    for word, said in words.items():
        command = command.replace(word, said)
    status, _, err = run(*command.split(" "))
    assert status == 1, err
    assert err.count("\n") == 1 and "fault of nearfar" not in err, err
    return err


@pytest.mark.parametrize("make", MAKE, ids=lambda make: make.__name__)
@pytest.mark.parametrize("command", READ)
def test_what_cannot_be_read_is_one_line(
    run: Run, tmp_path: Path, command: str, make: Callable[[Path], None]
) -> None:
    make(path := tmp_path / "it")
    outcome(run, command, path, tmp_path)


@pytest.mark.parametrize("command", READ)
def test_a_device_without_end_is_one_line(run: Run, tmp_path: Path, command: str) -> None:
    outcome(run, command, Path("/dev/zero"), tmp_path)


@pytest.mark.parametrize("make", [pipe, Path.mkdir, loop], ids=lambda make: make.__name__)
@pytest.mark.parametrize("command", WRITTEN)
def test_what_is_no_file_is_never_replaced(
    run: Run, tmp_path: Path, command: str, make: Callable[[Path], None]
) -> None:
    make(path := tmp_path / "it")
    before = path.lstat().st_mode
    outcome(run, command, path, tmp_path)
    assert path.lstat().st_mode == before
