"""`nearfar config`: where each setting comes from, and that nothing wrong is ever written."""

from __future__ import annotations

import json
import stat
import threading
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backbone.errors import WrongUsage
from offload.commands.config import config_app
from offload.config.places import places
from offload.config.settings import PrivacySettings
from offload.config.settings_reading import load
from offload.config.settings_sources import (
    SettingValue,
    all_said,
    change_settings,
    drop,
    no_setting,
    put,
)


def said(path: Path, environment: dict[str, str], name: str) -> SettingValue:
    return next(each for each in all_said(path, environment) if each.name == name)


def test_each_value_tells_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[edge]\nnum_threads = 3\nwindow = 64\n")
    environment = {"NEARFAR_EDGE_WINDOW": "128"}
    assert said(path, environment, "edge.num_threads").source == "file"
    window = said(path, environment, "edge.window")
    assert (window.value, window.source, window.variable) == (
        128,
        "environment",
        "NEARFAR_EDGE_WINDOW",
    )
    assert said(path, environment, "edge.model").source == "default"


def test_a_key_is_never_shown(tmp_path: Path) -> None:
    environment = {"NEARFAR_CLOUD_API_KEY": "sk-very-secret"}
    assert said(tmp_path / "none", environment, "cloud.api_key").value == "(set)"


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("edge.num_threads", "2", 2),
        ("edge.keep_sessions", "no", False),
        ("policy.min_gain", "0.25", 0.25),
        ("policy.privacy", "local_only", "local_only"),
        ("cloud.url", "tcp://10.0.0.1:7070", "tcp://10.0.0.1:7070"),
    ],
)
def test_what_is_set_is_read_back(tmp_path: Path, name: str, text: str, kept: object) -> None:
    path = tmp_path / "new" / "config.toml"
    assert put(path, name, text) == kept
    assert said(path, {}, name) == SettingValue(name=name, value=kept, source="file")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("edge.num_threads", "many", "a whole number"),
        ("edge.num_threads", "-1", "from 0 to 1024"),
        ("cloud.url", "tcp://", "tcp://HOST:PORT"),
        ("cloud.url", "tcp://host", "tcp://HOST:PORT"),
        ("cloud.url", "http://", "http"),
        ("edge.nonsense", "1", "nearfar config show"),
        ("edge", "1", "nearfar config show"),
        ("clowd.url", "x", "nearfar config show"),
    ],
)
def test_a_wrong_value_is_refused_and_nothing_is_written(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    path = tmp_path / "config.toml"
    with pytest.raises(WrongUsage, match=words):
        put(path, name, text)
    assert not path.exists()


def test_comments_stay_and_a_wrong_value_can_be_mended(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("# mine\n[edge]\nnum_threads = 'many'  # why\nwindow = 64\n")
    put(path, "edge.num_threads", "2")
    assert "# mine" in path.read_text() and load(path, {}).edge.window == 64
    assert drop(path, "edge.window") and not drop(path, "edge.window")
    assert load(path, {}).edge.window == -1


def test_a_new_file_is_its_owners_alone_and_an_old_ones_rights_stay(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    put(path, "edge.num_threads", "1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    put(path, "edge.num_threads", "2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert sorted(each.name for each in tmp_path.iterdir()) == [".config.toml.turn", "config.toml"]


def test_changes_of_several_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    names = [
        each.name for each in fields(PrivacySettings) if each.name not in ("names", "countries")
    ]
    threads = [
        threading.Thread(target=change_settings, args=(path, "privacy", {name: "block"}))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = load(path).privacy
    assert {getattr(kept, name) for name in names} == {"block"}


def run(*arguments: str, stdin: str = "") -> str:
    done = CliRunner().invoke(config_app, list(arguments), input=stdin)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_command_prints_one_document() -> None:
    here = places()
    assert json.loads(run("path", "--json"))["config_file"] == str(here.config_file)
    assert run("path").strip() == str(here.config_file)
    assert json.loads(run("set", "edge.window", "64", "--json"))["value"] == 64
    (window,) = json.loads(run("show", "edge.window", "--json"))
    assert (window["value"], window["source"]) == (64, "file")
    assert json.loads(run("unset", "edge.window", "--json"))["removed"] is True


def test_a_key_may_come_from_stdin_and_is_not_printed() -> None:
    assert "sk-1" not in run("set", "cloud.api_key", "-", stdin="sk-1\n")
    assert load(places().config_file).cloud.api_key == "sk-1"
    assert "sk-1" not in run("show")


def test_a_variable_that_hides_what_is_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_EDGE_WINDOW", "128")
    assert json.loads(run("set", "edge.window", "64", "--json"))["overridden"] is True


def test_only_what_is_changed_can_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEARFAR_EDGE_NUM_THREADS")
    assert "every setting has its default" in run("show", "--changed")
    run("set", "edge.window", "64")
    assert run("show", "--changed").count("\n") == 1


@pytest.mark.parametrize(
    ("name", "kept"), [("policy.min_logprob", -0.5), ("edge.num_gpu_layers", -1)]
)
def test_a_value_below_zero_is_no_option(name: str, kept: float) -> None:
    done = CliRunner().invoke(config_app, ["set", name, str(kept)])
    assert done.exit_code == 0, done.output
    assert said(places().config_file, {}, name).value == kept


@pytest.mark.parametrize("written", ["edge.num_thread", "edge.threads", "edg.num_threads"])
def test_a_name_that_is_none_is_told_the_one_that_was_probably_meant(written: str) -> None:
    assert "did you mean edge.num_threads" in str(no_setting(written))
