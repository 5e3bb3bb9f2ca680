from __future__ import annotations

from pathlib import Path

import pytest

from backbone.files import atomic_write
from offload.errors import SettingsError
from offload.link.keys import (
    DeviceList,
    KeyPair,
    is_key,
    is_loopback,
    load_or_make,
    require_curve,
)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_keys_are_made_once_and_found_again(tmp_path: Path) -> None:
    made = load_or_make(tmp_path / "keys", "device")
    assert load_or_make(tmp_path / "keys", "device") == made
    assert load_or_make(tmp_path / "keys", "server") != made


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    load_or_make(tmp_path / "keys", "device")
    assert mode_of(tmp_path / "keys") == 0o700
    assert [mode_of(path) for path in (tmp_path / "keys").iterdir()] == [0o600]


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    load_or_make(tmp_path, "device")
    (tmp_path / "device.json").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_or_make(tmp_path, "device")


@pytest.mark.parametrize("content", [b"", b"{}", b'{"public": "x", "secret": "y"}', b"\xff\x00"])
def test_a_damaged_key_file_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    atomic_write(tmp_path / "device.json", content)
    with pytest.raises(SettingsError, match=r"device\.json is damaged"):
        load_or_make(tmp_path, "device")
    assert (tmp_path / "device.json").read_bytes() == content


def test_the_secret_does_not_show() -> None:
    pair = KeyPair.new()
    assert pair.public in repr(pair)
    assert pair.secret not in repr(pair)


def test_halves_of_two_pairs_are_refused() -> None:
    with pytest.raises(SettingsError, match="do not belong together"):
        KeyPair(public=KeyPair.new().public, secret=KeyPair.new().secret)


@pytest.mark.parametrize("text", ["", "x" * 39, "é" * 40, " " * 40, "x" * 41, "~" * 40])
def test_what_is_no_key_is_known(text: str) -> None:
    assert not is_key(text)
    assert is_key(KeyPair.new().public)


def test_devices_are_kept_and_seen_by_another_process(tmp_path: Path) -> None:
    ours, theirs = DeviceList(tmp_path / "devices.json"), DeviceList(tmp_path / "devices.json")
    key = KeyPair.new().public
    assert theirs.find(key) is None
    ours.add("laptop", key)
    found = theirs.find(key)
    assert found is not None and found.name == "laptop"
    assert mode_of(tmp_path / "devices.json") == 0o600
    theirs.remove("laptop")
    assert ours.find(key) is None and ours.all() == []


def test_a_device_may_be_added_again_but_its_name_not_taken() -> None:
    devices, key = DeviceList(), KeyPair.new().public
    devices.add("laptop", key)
    devices.add("laptop", key)
    assert [device.name for device in devices.all()] == ["laptop"]
    with pytest.raises(SettingsError, match="taken"):
        devices.add("laptop", KeyPair.new().public)
    with pytest.raises(SettingsError, match="nearfar link key"):
        devices.add("other", "no key")


def test_removing_an_unknown_device_names_the_known_ones() -> None:
    devices = DeviceList()
    devices.add("laptop", KeyPair.new().public)
    with pytest.raises(SettingsError, match="there are: laptop"):
        devices.remove("jetson")


def test_a_damaged_list_of_devices_lets_no_one_in(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    path.write_bytes(b"[{]")
    with pytest.raises(SettingsError, match=r"devices\.json is damaged"):
        DeviceList(path).find(KeyPair.new().public)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://127.0.0.1:1",
        "tcp://127.9.8.7:*",
        "tcp://[::1]:5",
        "ipc:///tmp/x",
        "tcp://localhost:1",
    ],
)
def test_loopback_needs_no_keys(endpoint: str) -> None:
    assert is_loopback(endpoint)
    require_curve(endpoint, has_keys=False, remedy="")


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://*:1",
        "tcp://0.0.0.0:1",
        "tcp://10.0.0.1:1",
        "tcp://[::]:1",
        "tcp://[fe80::1]:1",
        "tcp://127.0.0.1.example.org:1",
        "tcp://localhost.example.org:1",
        "tcp://eth0:1",
        "tcp://[broken",
        "",
    ],
)
def test_what_others_can_reach_needs_keys(endpoint: str) -> None:
    assert not is_loopback(endpoint)
    require_curve(endpoint, has_keys=True, remedy="")
    with pytest.raises(SettingsError, match="do this"):
        require_curve(endpoint, has_keys=False, remedy="do this")
