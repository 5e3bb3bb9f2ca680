"""A split model is one model: found by any part, counted whole, removed with its own parts only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbone.errors import CheckpointError
from edge.models.local_models import (
    find_any,
    find_gguf,
    list_models,
    read_aliases,
    set_alias,
    size_of,
)
from edge.models.model_files import delete, removable

SPLIT = ("big-00001-of-00002", "big-00002-of-00002")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / f"{name}.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"GGUF")


def own(folder: Path) -> list[str]:
    return [each.name for each in list_models(folder) if not each.embedded]


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("big-00001-of-00002", ("big-instruct-00001-of-00002", "big-instruct-00002-of-00002")),
        ("tune[v2]-00001-of-00002", ("tunev-00001-of-00002", "tune2-00002-of-00002")),
        ("all*-00001-of-00002", ("all-that-is-dear-00001-of-00002", "all-00002-of-00002")),
        ("m?-00001-of-00002", ("mx-00001-of-00002", "mx-00002-of-00002")),
    ],
)
def test_removing_a_model_deletes_its_own_files_and_no_other(
    folder: Path, name: str, others: tuple[str, ...]
) -> None:
    parts = (name, name.replace("-00001-", "-00002-"))
    put(folder, *parts, *others)
    files = removable(name, folder)
    assert [path.name for path in files] == [f"{part}.gguf" for part in parts]
    delete(files, folder)
    assert sorted(path.stem for path in folder.iterdir()) == sorted(others)


def test_a_name_with_of_in_it_is_listed_as_any_other(folder: Path) -> None:
    put(folder, "jack-of-all", "best-of-3-q8_0", *SPLIT)
    assert own(folder) == ["best-of-3-q8_0", "big-00001-of-00002", "jack-of-all"]


def test_any_part_opens_the_set_and_every_part_counts(folder: Path) -> None:
    put(folder, *SPLIT)
    for part in SPLIT:
        assert find_gguf(part, folder).stem == SPLIT[0]
        assert find_any(str(folder / f"{part}.gguf"), folder).stem == SPLIT[0]
    assert size_of(folder / f"{SPLIT[0]}.gguf") == 8
    assert [each.size_bytes for each in list_models(folder) if not each.embedded] == [8]


def test_a_set_that_lacks_a_part_says_which_and_can_still_be_removed(folder: Path) -> None:
    put(folder, "big-00002-of-00003", "big-00003-of-00003")
    with pytest.raises(CheckpointError, match=r"lacks part 1 beside it; fetch"):
        find_gguf("big-00002-of-00003", folder)
    assert own(folder) == ["big-00002-of-00003", "big-00003-of-00003"]
    assert len(removable("big-00003-of-00003", folder)) == 2


def test_later_parts_of_other_programs_are_not_listed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMSTUDIO_MODELS", str(tmp_path / "studio"))
    put(tmp_path / "studio/someone/repo", *SPLIT)
    assert own(folder) == [f"lmstudio/someone/{SPLIT[0]}"]


def test_an_alias_goes_with_the_files_that_it_meant_and_with_no_others(folder: Path) -> None:
    put(folder, "one", "owner/repo/two")
    for alias, target in (("a", "one"), ("b", "two"), ("c", "owner/repo/two"), ("d", "embedded")):
        set_alias(alias, target, folder)
    delete(removable("two", folder), folder)
    assert set(read_aliases(folder)) == {"a", "d"}
    assert not (folder / "owner").exists() and (folder / "one.gguf").exists()


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "~nobody-of-this-name"])
def test_the_home_of_nobody_is_a_name_like_another(folder: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="there is no model"):
        find_any(name, folder)


def test_a_folder_is_listed_with_its_whole_name(folder: Path) -> None:
    (folder / "Qwen2.5-0.5B").mkdir()
    (folder / "Qwen2.5-0.5B/config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert own(folder) == ["Qwen2.5-0.5B"]
    assert find_any("Qwen2.5-0.5B", folder) == folder / "Qwen2.5-0.5B"
