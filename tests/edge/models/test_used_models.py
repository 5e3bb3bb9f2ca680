"""Models that were used by their path stay in the lists of later runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge.models.local_models import choices, names_here
from edge.models.used_models import USED, note_use, used_by_path
from offload.pair import EDGE_MODEL


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return Path(shutil.copy(EDGE_MODEL, tmp_path / "mine.gguf"))


def test_a_path_is_remembered_and_a_name_need_not_be(tmp_path: Path, elsewhere: Path) -> None:
    folder = tmp_path / "models"
    note_use("embedded", folder)
    note_use("no such model", folder)
    assert used_by_path(folder) == [] and not folder.exists()
    note_use(str(elsewhere), folder)
    note_use(str(elsewhere), folder)
    assert used_by_path(folder) == [str(elsewhere)]
    assert choices(folder, ["embedded", *used_by_path(folder)])[0] == str(elsewhere)


def test_one_file_is_listed_once_however_it_is_written(
    tmp_path: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models"
    note_use("mine.gguf", folder)
    listed = choices(folder, ["mine.gguf", *used_by_path(folder)])
    assert listed == ["mine.gguf", *names_here(folder)]


def test_what_is_gone_is_not_listed_and_a_damaged_list_is_none(
    tmp_path: Path, elsewhere: Path
) -> None:
    folder = tmp_path / "models"
    note_use(str(elsewhere), folder)
    elsewhere.unlink()
    assert used_by_path(folder) == []
    (folder / USED).write_text("{")
    assert used_by_path(folder) == []
