"""Settings: file, then environment; every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload.errors import SettingsError
from offload.messages import Privacy
from offload.places import places
from offload.settings import Settings
from offload.settings_reading import load


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
        ("[cloud]\nurl = 'tcp://a:1,,tcp://b:1'", "must begin"),
        (f"[cloud]\nurl = 'tcp://a:1,tcp://b:1'\nserver_key = '{'k' * 40}'", "2 addresses"),
        ("[edge]\nnum_threads = 'many'", "whole number"),
        ("[edge]\nnum_threads = -1", "0 or more"),
        ("[edge]\nnum_threads = true", "whole number"),
        ("[policy]\noffline = 'perhaps'", "true or false"),
        ("[policy]\nprivacy = 'secret'", "local_only"),
        ("[policy]\nmin_logprob = 0.5", "0 or less"),
        ("[policy]\nmin_logprob = nan", "0 or less"),
        ("[quota]\ntokens_per_day = -1", "0 or more"),
        ("cloud = 3", "sections"),
        ("not toml", "cannot be read"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(write(tmp_path, text), {})


def test_everything_lies_under_nearfar_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path))
    here = places()
    for path in (here.config_file, here.keys, here.models, here.conversations, here.cache):
        assert path.is_relative_to(tmp_path)
