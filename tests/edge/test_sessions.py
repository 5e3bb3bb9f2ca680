from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edge.llama.fingerprint import fingerprint
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from edge.llama.sessions import Header, Saved, SessionStore, forget_session
from offload.engine import Remembering
from offload.messages import Delta, Finish, Message, Request, Sampling
from offload.places import places
from offload.settings import EdgeSettings, Settings


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


def test_half_written_files_of_the_killed_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.save("a", _saved())
    killed, living = (tmp_path / "sessions" / name for name in ("x.1.tmp", "y.2.tmp"))
    for path in (killed, living):
        path.write_bytes(b"half")
    os.utime(killed, (1, 1))
    store.save("b", _saved())
    assert not killed.exists() and living.exists()


SAVE_FOREVER = """
import sys
from pathlib import Path
from edge.llama.sessions import Header, Saved, SessionStore
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


@pytest.mark.parametrize("num_seqs", [1, 2])
async def test_a_forgotten_conversation_is_read_anew_and_not_saved_again(
    tiny_gguf: Path, tmp_path: Path, num_seqs: int
) -> None:
    engine = _engine(tiny_gguf, tmp_path, max_num_seqs=num_seqs)
    assert isinstance(engine, Remembering)
    request = Request(prompt=LONG, session="s", sampling=Sampling(max_tokens=3))
    list(engine.answer(request))
    await engine.forget("s")
    await engine.forget("nobody")
    assert all(seat.cache.window.used == 0 for seat in engine._seats.all)
    await engine.aclose()
    assert not list(tmp_path.glob("*.kv"))


def test_the_settings_reach_the_runtime(home: Path) -> None:
    from edge.desk.near import NUM_SERVED, open_edge

    settings = Settings(edge=EdgeSettings(num_sinks=7, max_draft_tokens=3, session_budget_mb=5))
    for serving, num_seqs in ((False, 1), (True, NUM_SERVED)):
        engine = open_edge(settings, places(), serving=serving)
        options = engine._options  # type: ignore[attr-defined]
        engine.close()  # type: ignore[attr-defined]
        assert (options.num_sinks, options.max_draft_tokens) == (7, 3)
        assert options.max_num_seqs == num_seqs
        assert options.session_folder == places().cache / "sessions"
        assert options.session_budget_bytes == 5 << 20
    forgetful = Settings(edge=EdgeSettings(keep_sessions=False, max_num_seqs=2))
    engine = open_edge(forgetful, places(), serving=True)
    options = engine._options  # type: ignore[attr-defined]
    engine.close()  # type: ignore[attr-defined]
    assert options.session_folder is None and options.max_num_seqs == 2


async def test_a_chat_goes_on_in_the_next_process(home: Path) -> None:
    """What a person sees: the second start evaluates only what is new."""
    from edge.desk.near import Choice, open_hybrid

    turns = [Message(role="user", content="What is 17 + 25? " + "Think of it well. " * 8)]
    counts: list[float] = []
    for start in range(2):
        hybrid = open_hybrid(Settings(), places(), Choice())
        request = Request(messages=tuple(turns), session="c1", sampling=Sampling(max_tokens=8))
        read: list[int] = []
        context = hybrid.edge._context  # type: ignore[attr-defined]
        decode = context.decode
        context.decode = lambda t, p, d=decode, r=read, **k: (r.append(len(t)), d(t, p, **k))[1]
        text = "".join([i.text async for i in hybrid.generate(request) if isinstance(i, Delta)])
        context.decode = decode
        await hybrid.aclose()
        counts.append(sum(read))
        if start == 0:
            turns += [Message(role="assistant", content=text), Message(role="user", content="So?")]
    assert counts[0] > 60 and counts[1] < 40
