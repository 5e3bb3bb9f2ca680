from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from edge.llama.fingerprint import fingerprint
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.llama.sessions import Header, Saved, SessionStore
from offload.messages import Delta, Finish, Request, Sampling


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
    assert not list((tmp_path / "sessions").glob("*.tmp"))


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


def _engine(path: Path, folder: Path | None, **options: object) -> LlamaEngine:
    known = {"num_threads": 1, "session_folder": folder, **options}
    return LlamaEngine(path, options=LlamaOptions(**known))  # type: ignore[arg-type]


def _ask(engine: LlamaEngine, prompt: str, session: str | None = "s") -> tuple[str, int]:
    """Return the answer and how many tokens were evaluated for it."""
    request = Request(prompt=prompt, session=session, sampling=Sampling(max_tokens=6))
    counted: list[int] = []
    decode = engine._context.decode
    engine._context.decode = lambda t, p, **k: (counted.append(len(t)), decode(t, p, **k))[1]  # type: ignore
    *deltas, finish = engine.answer(request)
    engine._context.decode = decode  # type: ignore[method-assign]
    assert isinstance(finish, Finish)
    return "".join(d.text for d in deltas if isinstance(d, Delta)), sum(counted)


LONG = "a story of some length, " * 4


@pytest.mark.parametrize("kv", ["f16", "q8_0", "q4_0"])
def test_conversation_goes_on_after_a_restart(tiny_gguf: Path, tmp_path: Path, kv: str) -> None:
    first = _engine(tiny_gguf, tmp_path, kv_cache_dtype=kv)
    _ask(first, LONG)
    expected, _ = _ask(first, LONG + "and more")
    first.close()
    second = _engine(tiny_gguf, tmp_path, kv_cache_dtype=kv)
    text, evaluated = _ask(second, LONG + "and more")
    second.close()
    assert text == expected and evaluated < 20


def test_conversations_change_places(tiny_gguf: Path, tmp_path: Path) -> None:
    engine = _engine(tiny_gguf, tmp_path)
    other = LONG.upper()
    expected = [_ask(engine, text, name)[0] for text, name in ((LONG, "a"), (other, "b"))]
    again = [_ask(engine, text, name) for text, name in ((LONG, "a"), (other, "b"))]
    engine.close()
    assert [text for text, _ in again] == expected
    assert all(evaluated < 20 for _, evaluated in again)


def test_without_a_session_or_folder_nothing_is_written(tiny_gguf: Path, tmp_path: Path) -> None:
    for folder, session in ((tmp_path / "x", None), (None, "s")):
        engine = _engine(tiny_gguf, folder)
        _ask(engine, LONG, session)
        engine.close()
    assert list(tmp_path.iterdir()) == []


def test_state_of_a_larger_context_is_not_forced_into_a_smaller(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    first = _engine(tiny_gguf, tmp_path)
    _ask(first, LONG)
    first.close()
    second = _engine(tiny_gguf, tmp_path, max_model_len=64)
    text, _ = _ask(second, "short")
    assert text
    second.close()


def test_windows_survive_the_restart(tiny_gguf: Path, tmp_path: Path) -> None:
    found = []
    for restart in (False, True):
        folder = tmp_path / str(restart)
        engine = _engine(tiny_gguf, folder, window=60)
        request = Request(prompt="endless", session="s", sampling=Sampling(max_tokens=150))
        _text = "".join(d.text for d in list(engine.answer(request))[:-1])  # type: ignore
        stream = list(engine._seats.all[0].cache.window.stream)
        if restart:
            engine.close()
            engine = _engine(tiny_gguf, folder, window=60)
            engine._seats.all[0].conversation.enter("s", stream)
        assert engine._seats.all[0].cache.window.dropped > 50
        engine._seats.all[0].cache.append(
            [65], engine._writer.pins(engine._seats.all[0].cache, request, [1])
        )
        found.append(engine._context.logits().tolist())
        engine.close()
    assert found[0] == pytest.approx(found[1], abs=2e-2)
