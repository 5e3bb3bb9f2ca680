"""Models are found, fetched and named: from a Hub that breaks off, lies, or wants a token."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backbone.errors import CheckpointError, NearfarError
from edge.models import cli, hub
from edge.models.catalogue import CATALOGUE, Q4_K, Q6_K, ModelShape, known
from edge.models.local_models import (
    as_setting,
    choices,
    find_any,
    find_gguf,
    list_models,
    read_aliases,
    set_alias,
)
from edge.models.model_contents import read_contents, read_folder
from edge.models.model_files import removable
from edge.models.pull import pull
from offload.errors import RequestError
from offload.pair import CLOUD_MODEL, EDGE_MODEL
from quantize.gguf import convert
from tests.edge.hubs import Hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("me/tiny", "tiny-Q4_K_M.gguf"),
        ("me/tiny:q8_0", "tiny-Q8_0.gguf"),
        ("hf.co/me/tiny:Q8_0", "tiny-Q8_0.gguf"),
        ("me/tiny/tiny-Q8_0.gguf", "tiny-Q8_0.gguf"),
        ("https://huggingface.co/me/tiny/resolve/main/tiny-Q8_0.gguf?download=true", "tiny-Q8_0"),
        ("https://huggingface.co/me/tiny/blob/main/tiny-Q4_K_M.gguf", "tiny-Q4_K_M.gguf"),
        ("https://huggingface.co/me/tiny", "tiny-Q4_K_M.gguf"),
    ],
)
def test_every_way_to_write_a_name_finds_the_file(
    there: Hub, folder: Path, name: str, file: str
) -> None:
    done = pull(name, folder)
    assert Path(done.path).name.startswith(file)
    assert find_gguf(done.name, folder).read_bytes() == there.files[Path(done.path).name]


def test_a_listed_model_is_told_apart_by_what_fits() -> None:
    assert known("QWEN3:0.6B") is not None and known("nothing") is None
    big = max(CATALOGUE, key=lambda each: each.size_gb)
    assert big.misfit(64_000_000_000) is None
    assert "more memory" in (big.misfit(2_000_000_000) or "")
    assert all(hub.parse(each.name).repo == each.repo for each in CATALOGUE)


def test_a_listed_model_that_is_not_here_says_how_to_fetch_it(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="models pull qwen3:4b"):
        find_gguf("qwen3:4b", folder)


def test_an_alias_means_its_model_until_it_is_dropped(folder: Path) -> None:
    set_alias("fast", "embedded", folder)
    assert find_gguf("fast", folder) == EDGE_MODEL
    set_alias("fast", None, folder)
    assert read_aliases(folder) == {}
    with pytest.raises(CheckpointError):
        find_gguf("fast", folder)


def test_what_is_not_in_the_models_folder_is_never_deleted(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    for name in (str(mine), "embedded"):
        with pytest.raises(CheckpointError, match="not in the models folder"):
            removable(name, folder)
    assert mine.exists() and EDGE_MODEL.exists()


def test_other_programs_models_are_found_where_they_lie(tmp_path: Path, folder: Path) -> None:
    ollama = tmp_path / "OLLAMA_MODELS"
    manifest = ollama / "manifests/registry.example/library/qwen3/4b"
    manifest.parent.mkdir(parents=True)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:abc"}
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    (ollama / "blobs").mkdir()
    (ollama / "blobs/sha256-abc").write_bytes(b"GGUF")
    (manifest.parent / "damaged").write_text("{")
    studio = tmp_path / "LMSTUDIO_MODELS/someone/a-model/a-model-Q4_K_M.gguf"
    studio.parent.mkdir(parents=True)
    studio.write_bytes(b"GGUF")
    names = {entry.name: entry.path for entry in list_models(folder)}
    assert names["ollama/qwen3:4b"].endswith("blobs/sha256-abc")
    assert find_gguf("lmstudio/someone/a-model-Q4_K_M", folder) == studio


def test_a_model_tells_its_types_and_template() -> None:
    contents = read_contents(EDGE_MODEL)
    assert contents.architecture == "qwen3" and "Q4_K" in contents.tensors
    assert 0.9e6 < sum(contents.parameters.values()) < 1.2e6
    assert "{%" in contents.chat_template


@pytest.mark.parametrize("cut", [30, 200, 3000])
def test_a_damaged_head_is_one_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(EDGE_MODEL.read_bytes()[:cut])
    with pytest.raises(NearfarError, match="fetch it again"):
        read_contents(path)


def test_lengths_that_cannot_be_are_refused(
    tmp_path: Path, make_tiny_gguf: Callable[..., Path]
) -> None:
    path = make_tiny_gguf(tmp_path / "tiny.gguf")
    data = bytearray(path.read_bytes())
    data[16:24] = (1 << 62).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_contents(path)


@pytest.mark.parametrize("name", ["embedded", "nearfar-edge", "nearfar-cloud"])
def test_the_embedded_pair_is_refused_before_anybody_is_asked(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(CheckpointError, match="belongs to nearfar itself"):
        cli.remove(name)
    assert "Delete" not in capsys.readouterr().out


def test_an_empty_name_is_no_model(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="name is empty"):
        find_gguf(" ", folder)


def test_a_folder_is_told_by_what_is_in_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="without a model"):
        find_gguf(str(tmp_path), folder)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"no config\.json; fetch the whole folder"):
        find_gguf(str(tmp_path), folder)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="nearfar quantize gguf"):
        find_gguf(str(tmp_path), folder)


def test_an_alias_is_listed_with_what_it_means(capsys: pytest.CaptureFixture[str]) -> None:
    cli.alias("fast", "nearfar-edge")
    cli.list_models()
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["fast", "alias", "of", "nearfar-edge"] in told


def test_dropping_an_alias_that_is_none_is_a_mistake() -> None:
    with pytest.raises(RequestError, match="there is no alias"):
        cli.alias("nothing", None)


def test_a_listed_folder_can_be_shown_by_its_name(folder: Path) -> None:
    contents = read_folder(find_any("nearfar-cloud", folder))
    assert contents.architecture == "qwen3" and contents.tensors == {"BF16": 46}
    assert 3_000_000 < sum(contents.parameters.values()) < 4_000_000
    assert "assistant" in contents.chat_template


@pytest.mark.parametrize("head", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"\x09" + b"\0" * 7])
def test_a_damaged_folder_is_one_line(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(head)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_folder(tmp_path)


def test_a_size_of_the_list_is_that_of_a_file_which_llama_cpp_wrote(tmp_path: Path) -> None:
    done = convert(CLOUD_MODEL, tmp_path / "small.gguf", kind="q4_k_m", num_threads=1)
    shape = ModelShape(
        num_layers=4,
        hidden=256,
        feed_forward=768,
        num_heads=4,
        num_kv_heads=2,
        head=64,
        vocabulary=896,
    )
    assert shape.num_parameters == pytest.approx(done.num_parameters, rel=0.01)
    matrices = read_contents(done.path).parameters
    written = {"Q4_K": Q4_K, "Q6_K": Q6_K}
    assert shape.q4_k_m_bytes == sum(matrices[kind] * bits for kind, bits in written.items()) / 8


@pytest.mark.parametrize(
    ("name", "num_bytes"), [("qwen3:0.6b", 484_220_320), ("smollm3:3b", 1_915_305_792)]
)
def test_a_size_of_the_list_is_about_that_of_the_published_file(name: str, num_bytes: int) -> None:
    listed = known(name)
    assert listed is not None
    assert listed.shape.q4_k_m_bytes == pytest.approx(num_bytes, rel=0.02)


def test_a_setting_names_a_model_that_is_there_from_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(EDGE_MODEL, tmp_path / "mine.gguf")
    models = tmp_path / "models"
    assert as_setting("mine.gguf", models) == str(tmp_path / "mine.gguf")
    assert as_setting("embedded", models) == "embedded"
    with pytest.raises(CheckpointError):
        as_setting("nowhere.gguf", models)


def test_a_model_in_use_is_always_in_the_list_and_aliases_are_too(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(EDGE_MODEL, models / "mine.gguf")
    set_alias("short", "mine", models)
    assert choices(models, ["/elsewhere/other.gguf", "embedded", "mine"]) == [
        "/elsewhere/other.gguf",
        "nearfar-edge",
        "mine",
        "short",
    ]
