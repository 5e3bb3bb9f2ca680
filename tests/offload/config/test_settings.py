"""Settings: file, then environment; every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.config.places import places
from offload.config.settings import Settings
from offload.config.settings_reading import _warn_of, load
from offload.errors import SettingsError
from offload.messages import Privacy


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert load(tmp_path / "none.toml", {}) == Settings()


def test_the_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    path = write(tmp_path, '[cloud]\nurl = "tcp://10.0.0.1:1"\n[edge]\nnum_threads = 3\n')
    settings = load(path, {"NEARFAR_CLOUD_URL": "tcp://10.0.0.2:2", "NEARFAR_POLICY_OFFLINE": "1"})
    assert settings.cloud.url == "tcp://10.0.0.2:2"
    assert settings.edge.num_threads == 3
    assert settings.policy.offline is True


def test_several_clouds_have_a_key_each(tmp_path: Path) -> None:
    text = f'[cloud]\nurl = "tcp://a:1, ipc:///b"\nserver_key = "{"k" * 40},"\n'
    assert load(write(tmp_path, text), {}).cloud.clouds == (
        ("tcp://a:1", "k" * 40),
        ("ipc:///b", ""),
    )
    key_alone = load(write(tmp_path, f'[cloud]\nserver_key = "{"k" * 40}"\n'), {})
    assert key_alone.cloud.clouds == (), "the address may come from the environment"
    unkeyed = load(write(tmp_path, '[cloud]\nurl = "tcp://a:1,tcp://b:1"\n'), {})
    assert unkeyed.cloud.clouds == (("tcp://a:1", ""), ("tcp://b:1", ""))


def test_privacy_is_read_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, '[policy]\nprivacy = "local_only"\n')
    assert load(path, {}).policy.privacy is Privacy.LOCAL_ONLY


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[clowd]\nurl = 'x'", "clowd"),
        ("[cloud]\nlink = 'x'", "cloud.link"),
        ("[cloud]\nurl = 'ftp://x'", "tcp://"),
        ("[cloud]\nserver_key = 'short'", "40"),
        ("[cloud]\nurl = 'tcp://a:1,ftp://b'", "ftp://b"),
        ("[cloud]\nurl = 'tcp://a:1,,tcp://b:1'", "must be tcp://HOST:PORT"),
        (f"[cloud]\nurl = 'tcp://a:1,tcp://b:1'\nserver_key = '{'k' * 40}'", "2 addresses"),
        ("[edge]\nnum_threads = 'many'", "whole number"),
        ("[edge]\nnum_threads = -1", "from 0 to 1024"),
        ("[edge]\nnum_gpu_layers = -2", "from -1"),
        ("[edge]\nwindow = 2", "from 16 to"),
        ("[edge]\nmax_num_batched_tokens = 0", "from 1"),
        ("[policy]\naim = 'auto-x3'", "auto-q95"),
        ("[edge]\nnum_threads = true", "whole number"),
        ("[policy]\noffline = 'perhaps'", "true or false"),
        ("[policy]\nprivacy = 'secret'", "local_only"),
        ("[policy]\nmin_logprob = 0.5", "0 or less"),
        ("[policy]\nmin_logprob = nan", "0 or less"),
        ("[quota]\ntokens_per_day = -1", "0 or more"),
        ("cloud = 3", r"write \[cloud\]"),
        ("[egde]\nmodel = 'x'", r"did you mean edge\?"),
        ("[edge]\nmodle = 'x'", r"did you mean model\?"),
        ("not toml", "cannot be read"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(write(tmp_path, text), {})


@pytest.mark.parametrize("name", ["NEARFAR_EGDE_MODEL", "NEARFAR_EDGE_MODLE", "NEARFAR_HOM"])
def test_a_variable_that_is_no_setting_is_told_once_and_stops_nothing(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_of.cache_clear()
    for _ in range(3):
        assert load(tmp_path / "none", {name: "x"}) == Settings()
    assert [each.message.count("did you mean") for each in caplog.records] == [1]


def test_a_wrong_value_of_a_variable_is_still_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"edge\.window is 'x'"):
        load(tmp_path / "none", {"NEARFAR_EDGE_WINDOW": "x"})


def test_what_kubernetes_sets_beside_a_service_of_ours_is_no_setting(tmp_path: Path) -> None:
    of_services = {
        "NEARFAR_CLOUD_SERVICE_HOST": "10.0.0.1",
        "NEARFAR_CLOUD_SERVICE_PORT": "7070",
        "NEARFAR_CLOUD_SERVICE_PORT_LINK": "7070",
        "NEARFAR_CLOUD_PORT": "tcp://10.0.0.1:7070",
        "NEARFAR_CLOUD_PORT_7070_TCP_ADDR": "10.0.0.1",
        "NEARFAR_SERVICE_HOST": "10.0.0.2",
    }
    assert load(tmp_path / "none", of_services) == Settings()
    assert load(tmp_path / "none", {"NEARFAR_SERVE_PORT": "8081"}).serve.port == 8081


def test_a_file_in_another_encoding_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="not UTF-8 text"):
        load(tmp_path / "config.toml", {})


def test_everything_lies_under_nearfar_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path))
    here = places()
    for path in (here.config_file, here.keys, here.models, here.conversations, here.cache):
        assert path.is_relative_to(tmp_path)
