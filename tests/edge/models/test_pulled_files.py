"""Pulled files lie in their repository's own folder, and are what the Hub says they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from backbone.errors import CheckpointError
from edge.models import hub
from edge.models.download import DownloadError
from edge.models.local_models import find_gguf, list_models, read_aliases
from edge.models.model_files import placed
from edge.models.pull import pull
from tests.edge.hubs import DATA, Hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_two_repositories_with_one_file_name_are_two_models(there: Hub, folder: Path) -> None:
    alice = pull("me/tiny", folder)
    there.owner, there.files = "bob", {"tiny-Q4_K_M.gguf": DATA[::-1]}
    bob = pull("bob/tiny", folder)
    assert (alice.sha256, Path(alice.path).read_bytes()) != (bob.sha256, DATA)
    assert Path(alice.path).read_bytes() == DATA and Path(bob.path).read_bytes() == DATA[::-1]
    names = [each.name for each in list_models(folder) if not each.embedded]
    assert names == ["bob/tiny/tiny-Q4_K_M", "me/tiny/tiny-Q4_K_M"]
    assert find_gguf(bob.name, folder) == Path(bob.path)
    with pytest.raises(CheckpointError, match="may be bob/tiny/tiny-Q4_K_M or me/tiny"):
        find_gguf("tiny-Q4_K_M", folder)


def test_a_new_version_of_the_same_size_is_fetched(there: Hub, folder: Path) -> None:
    first = pull("me/tiny", folder)
    there.files["tiny-Q4_K_M.gguf"] = DATA[::-1]
    second = pull("me/tiny", folder)
    assert first.path == second.path and first.sha256 != second.sha256
    assert Path(second.path).read_bytes() == DATA[::-1]


def test_a_file_that_is_here_and_right_is_not_fetched_again(there: Hub, folder: Path) -> None:
    folder.mkdir()
    (folder / "tiny-Q4_K_M.gguf").write_bytes(DATA)  # as earlier versions laid it
    assert pull("me/tiny", folder).path == str(folder / "tiny-Q4_K_M.gguf")
    assert not any("/resolve/" in path for path, _, _ in there.asked)


@pytest.mark.parametrize(
    "name",
    [
        "../aliases.json",
        "../other/tokenizer_config.json",
        "/etc/nearfar.json",
        "a/../../../x.json",
        "./x.json",
        "a//x.json",
        "..\\..\\x.json",
        "C:x.json",
        "x\x1b]0;y.json",
        "x\0.json",
        "nul.json",
        "COM1",
        "com\u00b2.json",
        "NUL .json",
        "CONIN$",
        "a/lpt9.txt/x.json",
        "x.json:stream",
        "D:\\x.json",
        "\\\\host\\share\\x.json",
        "a. /x.json",
        "ends-with-a-dot.",
        "n" * 300 + ".json",
        "../x-Q4_K_M.gguf",
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_before_anything_is_written(
    there: Hub, folder: Path, name: str
) -> None:
    there.files = {"config.json": b"{}", name: b"{}", "model.safetensors": b"w"}
    with pytest.raises(DownloadError, match="is not written here") as told:
        placed(name, "me/tiny", folder)
    assert str(told.value).isprintable()
    if name.endswith(".json"):
        with pytest.raises(DownloadError, match="is not written here"):
            pull("me/tiny", folder)
    assert not folder.exists()


def test_a_link_inside_a_repository_is_not_followed(
    there: Hub, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (folder / "me").mkdir(parents=True)
    (folder / "me/tiny").symlink_to(tmp_path / "mine")
    with pytest.raises(DownloadError, match="by a link"):
        pull("me/tiny", folder)
    assert not any((tmp_path / "mine").iterdir())


def test_the_models_folder_itself_may_be_a_link(there: Hub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    folder.symlink_to(tmp_path / "disk")
    assert Path(pull("me/tiny", folder).path).read_bytes() == DATA


@pytest.mark.parametrize("name", ["../x", "me/..", "./tiny", "me/.git", "-me/tiny", "a b/c"])
def test_a_repository_is_named_by_its_owner_and_its_name(name: str) -> None:
    with pytest.raises(DownloadError, match="is no model"):
        hub.parse(name)


@pytest.mark.parametrize(
    ("name", "repo", "quantization"),
    [
        ("hf.co/me/tiny:latest", "me/tiny", None),
        ("me/tiny:LATEST", "me/tiny", None),
        ("qwen3:4b-q8_0", "bartowski/Qwen_Qwen3-4B-GGUF", "Q8_0"),
        ("llama3.2:3b-instruct-q4_K_M", "bartowski/Llama-3.2-3B-Instruct-GGUF", "Q4_K_M"),
        ("llama3.2", "bartowski/Llama-3.2-3B-Instruct-GGUF", "Q4_K_M"),
        ("gemma3:latest", "bartowski/google_gemma-3-4b-it-GGUF", "Q4_K_M"),
        ("gemma3:1b-it-fp16", "bartowski/google_gemma-3-1b-it-GGUF", "F16"),
    ],
)
def test_the_tags_of_ollama_are_understood(name: str, repo: str, quantization: str | None) -> None:
    source = hub.parse(name)
    assert (source.repo, source.quantization) == (repo, quantization)


def test_a_tag_is_an_alias_of_what_it_fetched(there: Hub, folder: Path) -> None:
    there.owner, there.repo = "bartowski", "Llama-3.2-3B-Instruct-GGUF"
    assert pull("llama3.2", folder, anyway=True).name == "llama3.2"
    assert read_aliases(folder) == {"llama3.2": "tiny-Q4_K_M"}
    assert find_gguf("llama3.2", folder).read_bytes() == DATA
