"""What nearfar keeps for a person: damaged, it is named with its remedy, and never deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from offload.egress.ledger.entries import Departure
from offload.egress.ledger.ledger import Ledger
from offload.egress.ledger.reading import open_book
from offload.egress.outbox import Outbox
from offload.errors import SettingsError
from offload.link.quota import Quota, QuotaMeter
from offload.link.usage_store import DayUse, UsageStore
from offload.messages import Finish, Request, Route

NEAR = Finish(reason="stop", route=Route(served_by="edge", reason="unreachable"))
LEFT = Departure(
    request_id="one",
    left_at=1.0,
    endpoint="tcp://cloud:1",
    why="unsure",
    privacy="cloud_ok",
    num_bytes=9,
    digest="0" * 64,
)


def _fill_outbox(path: Path) -> None:
    assert Outbox(path).put(Request(prompt="hello"), "near", NEAR)


def _fill_ledger(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(100):
        ledger.leaving(Departure(**{**_fields(), "key": str(number)}))
    ledger.close()


def _fields() -> dict[str, object]:
    return {name: getattr(LEFT, name) for name in LEFT.__struct_fields__}


def _fill_usage(path: Path) -> None:
    store = UsageStore(path)
    store.add(5, {f"device {number}": DayUse(1, 2) for number in range(300)})
    store.close()


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _reshape(path: Path) -> None:
    path.unlink()
    if path.suffix == ".json":
        path.write_text('{"a": [1]}')
        return
    file = sqlite3.connect(path)
    file.execute("CREATE TABLE departures (x)")
    file.execute("CREATE TABLE used (x)")
    file.close()


def _overwrite(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00 this is something else " * 40)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


damage = pytest.mark.parametrize("spoil", [_cut, _reshape, _overwrite, _replace_by_folder])
Spoil = Callable[[Path], None]


def _told(caught: pytest.ExceptionInfo[SettingsError], path: Path) -> None:
    message = str(caught.value)
    assert str(path) in message and "move it away" in message.replace("the file", "it")
    assert "\n" not in message and "delete" not in message


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


@damage
def test_a_damaged_outbox_is_named_and_left_alone(tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "outbox" / "waiting.json"
    _fill_outbox(path)
    spoil(path)
    before = _content(path)
    with pytest.raises(SettingsError) as caught:
        Outbox(path).pending()
    _told(caught, path)
    with pytest.raises(SettingsError):
        Outbox(path).forget("all")
    assert Outbox(path).put(Request(prompt="hello"), "near", NEAR) is None, "the answer stands"
    assert _content(path) == before


@damage
def test_a_damaged_usage_store_is_named_and_left_alone(tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "used.sqlite"
    _fill_usage(path)
    spoil(path)
    with pytest.raises(SettingsError) as caught:
        QuotaMeter(Quota(tokens_per_day=9), path)
    _told(caught, path)
    assert path.exists()


@damage
def test_a_damaged_ledger_is_kept_under_another_name(
    tmp_path: Path, spoil: Spoil, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.sqlite"
    _fill_ledger(path)
    spoil(path)
    with pytest.raises(SettingsError) as caught, open_book(path) as book:
        book.totals()
    _told(caught, path)
    before = _content(path)
    ledger = Ledger(path)
    ledger.leaving(LEFT)
    ledger.close()
    aside = [each for each in tmp_path.iterdir() if "damaged" in each.name and each.suffix]
    if path.is_dir():
        assert not aside and "move it away" in caplog.text
        return
    assert _content(aside[0]) == before and str(aside[0]) in caplog.text
    with open_book(path) as book:
        assert book.totals().departures == 1
