"""A settings file that is no such file, or none that can be read, is one line and never a hang."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from offload.config.settings_reading import read_file
from offload.config.settings_sources import change_settings, read_remarks
from offload.errors import SettingsError


def _every_way(path: Path) -> None:
    for way in (read_file, lambda path: read_remarks(path, "edge"),
                lambda path: change_settings(path, "edge", {"window": 64})):  # fmt: skip
        with pytest.raises(SettingsError) as caught:
            way(path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders")
def test_a_pipe_in_the_place_of_the_settings_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.toml")
    _every_way(tmp_path / "config.toml")


def test_settings_that_are_nested_without_end_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("a=" + "[" * 20_000)
    _every_way(tmp_path / "config.toml")


@pytest.mark.skipif(sys.platform == "win32", reason="the null device has another name there")
def test_the_null_device_is_a_file_without_settings() -> None:
    assert read_file(Path(os.devnull)) == {}
