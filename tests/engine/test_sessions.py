"""The files of conversations: whole, private, bounded, and never taken for another's."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge.llama.gguf_file import fingerprint
from engine.sessions import Header, Saved, SessionStore, forget_session


def _saved(size: int = 100, model: str = "m") -> Saved:
    header = Header(model=model, stream=[1, 2, 3], kept=[(0, 3)])
    return Saved(header=header, state=os.urandom(size))


def _store(folder: Path, budget: int = 10_000, model: str = "m") -> SessionStore:
    return SessionStore(folder / "sessions", model=model, budget_bytes=budget)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "sessions").glob("*.kv"))


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    saved = _saved()
    assert _store(tmp_path).save("a", saved)
    assert _store(tmp_path).load("a") == saved
    assert _store(tmp_path).load("b") is None


def test_folder_and_key_are_private(tmp_path: Path) -> None:
    _store(tmp_path).save("a", _saved())
    folder = tmp_path / "sessions"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["flipped", "cut", "longer", "empty", "noise", "other key"])
def test_files_that_do_not_match_are_ignored_with_a_warning(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    _store(tmp_path).save("a", _saved())
    (path,) = _files(tmp_path)
    data = bytearray(path.read_bytes())
    if kind == "flipped":
        data[-1] ^= 1
    elif kind == "other key":
        (tmp_path / "sessions" / "key").write_bytes(os.urandom(32))
    else:
        data = {"cut": data[:-5], "longer": data + b"x", "empty": b"", "noise": os.urandom(90)}[
            kind
        ]
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert _store(tmp_path).load("a") is None
    assert "ignored" in caplog.text


def test_another_models_sessions_are_not_found(tmp_path: Path) -> None:
    _store(tmp_path).save("a", _saved())
    assert _store(tmp_path, model="other").load("a") is None


def test_least_recently_used_goes_first(tmp_path: Path) -> None:
    store = _store(tmp_path, budget=1000)
    for number, name in enumerate("abc"):
        store.save(name, _saved(200))
        os.utime(store.path(name), ns=(number, number))
    assert store.load("a") is not None, "using it makes it the newest"
    store.save("d", _saved(200))
    assert [name for name in "abcd" if store.load(name) is not None] == ["a", "c", "d"]


def test_state_over_the_budget_is_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not _store(tmp_path, budget=50).save("a", _saved())
    assert "over the budget" in caplog.text and _files(tmp_path) == []


def test_full_disk_is_a_warning_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, old = _store(tmp_path), _saved()
    store.save("a", old)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Path, "replace", full)
        assert not store.save("a", _saved())
    assert "No space left" in caplog.text
    assert store.load("a") == old
    assert not list((tmp_path / "sessions").glob(".*.part"))


def test_forgotten_sessions_are_gone(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save("a", _saved())
    store.forget("a")
    store.forget("a")
    assert store.load("a") is None and _files(tmp_path) == []


def test_fingerprint_changes_with_content_and_not_with_the_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    data = bytearray(os.urandom(3_000_000))
    first.write_bytes(data)
    second.write_bytes(data)
    assert fingerprint(first) == fingerprint(second)
    data[-1] ^= 1
    second.write_bytes(data)
    assert fingerprint(first) != fingerprint(second)


def test_half_written_files_of_the_killed_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save("a", _saved())
    killed, living = (
        tmp_path / "sessions" / name for name in (".x.kv.1-aa.part", ".y.kv.2-bb.part")
    )
    for path in (killed, living):
        path.write_bytes(b"half")
    os.utime(killed, (1, 1))
    store.save("b", _saved())
    assert not killed.exists() and living.exists()


SAVE_FOREVER = """
import sys
from pathlib import Path
from engine.sessions import Header, Saved, SessionStore
store = SessionStore(Path(sys.argv[1]), model="m", budget_bytes=10**9)
for number in range(10**9):
    state = bytes([number % 256]) * 4_000_000
    store.save("s", Saved(header=Header(model="m", stream=[number], kept=[(0, 1)]), state=state))
    print(number, flush=True)
"""


def test_killed_while_saving_leaves_a_whole_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "sessions"
    for round_ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(folder)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        seen = [int(child.stdout.readline()) for _ in range(3 + round_)]
        child.kill()
        rest = [int(line) for line in child.stdout.read().split()]
        child.wait()
        child.stdout.close()
        saved = _store(tmp_path).load("s")
        assert saved is not None, "the newest whole one is there"
        (number,) = saved.header.stream
        assert number in (last := max(seen + rest), last + 1)
        assert saved.state == bytes([number % 256]) * 4_000_000
    assert caplog.text == ""


def test_a_conversation_is_forgotten_of_every_model(tmp_path: Path) -> None:
    for model in ("m", "n"):
        _store(tmp_path, model=model).save("a", _saved(model=model))
        _store(tmp_path, model=model).save("b", _saved(model=model))
    forget_session(tmp_path / "sessions", "a")
    forget_session(tmp_path / "nowhere", "a")
    assert len(_files(tmp_path)) == 2
    assert _store(tmp_path).load("a") is None and _store(tmp_path).load("b") is not None
