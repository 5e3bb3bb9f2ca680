from __future__ import annotations

from pathlib import Path

import pytest

from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.config.places import places
from offload.config.settings import EdgeSettings, Settings
from offload.engine import SessionKeeping
from offload.messages import Delta, Finish, Message, Request, Sampling


def _engine(path: Path, folder: Path | None, **options: object) -> LlamaEngine:
    known = {"num_threads": 1, "session_folder": folder, **options}
    return LlamaEngine(path, options=LlamaOptions(**known))  # type: ignore[arg-type]


def _ask(engine: LlamaEngine, prompt: str, session: str | None = "s") -> tuple[str, int]:
    """Return the answer and how many tokens were evaluated for it."""
    request = Request(prompt=prompt, session=session, sampling=Sampling(max_tokens=6))
    counted: list[int] = []
    decode = engine.context.decode
    engine.context.decode = lambda t, p, **k: (counted.append(len(t)), decode(t, p, **k))[1]  # type: ignore
    *deltas, finish = engine.answer(request)
    engine.context.decode = decode  # type: ignore[method-assign]
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


def test_a_state_of_another_number_of_lanes_is_kept_apart(tiny_gguf: Path, tmp_path: Path) -> None:
    """Such a state cannot be restored; and it must not take the place of one that can."""

    def reused(lanes: int, prompt: str) -> int:
        engine = _engine(tiny_gguf, tmp_path, max_num_seqs=lanes)
        request = Request(prompt=prompt, session="s", sampling=Sampling(max_tokens=6))
        *_, finish = engine.answer(request)
        engine.close()
        assert isinstance(finish, Finish)
        return finish.usage.cached_tokens

    for lanes in (1, 4):
        assert reused(lanes, LONG) == 0
    for lanes in (4, 1):
        assert reused(lanes, LONG + "and more") > 80


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
        stream = list(engine.slots.all[0].cache.window.stream)
        if restart:
            engine.close()
            engine = _engine(tiny_gguf, folder, window=60)
            engine.slots.all[0].conversation.enter("s", stream)
        assert engine.slots.all[0].cache.window.dropped > 50
        engine.slots.all[0].cache.append(
            [65], engine.generation.pins(engine.slots.all[0].cache, request, [1])
        )
        found.append(engine.context.logits().tolist())
        engine.close()
    assert found[0] == pytest.approx(found[1], abs=2e-2)


@pytest.mark.parametrize("num_seqs", [1, 2])
async def test_a_forgotten_conversation_is_read_anew_and_not_saved_again(
    tiny_gguf: Path, tmp_path: Path, num_seqs: int
) -> None:
    engine = _engine(tiny_gguf, tmp_path, max_num_seqs=num_seqs)
    assert isinstance(engine, SessionKeeping)
    request = Request(prompt=LONG, session="s", sampling=Sampling(max_tokens=3))
    list(engine.answer(request))
    await engine.forget("s")
    await engine.forget("nobody")
    assert all(slot.cache.window.used == 0 for slot in engine.slots.all)
    await engine.aclose()
    assert not list(tmp_path.glob("*.kv"))


def test_the_settings_reach_the_runtime(home: Path) -> None:
    from edge.near.edge_factory import NUM_SERVED, open_edge

    settings = Settings(edge=EdgeSettings(num_sinks=7, max_draft_tokens=3, session_budget_mb=5))
    for serving, num_seqs in ((False, 1), (True, NUM_SERVED)):
        engine = open_edge(settings, places(), serving=serving)
        options = engine.options  # type: ignore[attr-defined]
        engine.close()  # type: ignore[attr-defined]
        assert (options.num_sinks, options.max_draft_tokens) == (7, 3)
        assert options.max_num_seqs == num_seqs
        assert options.session_folder == places().cache / "sessions"
        assert options.session_budget_bytes == 5 << 20
    forgetful = Settings(edge=EdgeSettings(keep_sessions=False, max_num_seqs=2))
    engine = open_edge(forgetful, places(), serving=True)
    options = engine.options  # type: ignore[attr-defined]
    engine.close()  # type: ignore[attr-defined]
    assert options.session_folder is None and options.max_num_seqs == 2


async def test_a_chat_goes_on_in_the_next_process(home: Path) -> None:
    """What a person sees: the second start evaluates only what is new."""
    from edge.near.factory import RunFlags, open_hybrid

    turns = [Message(role="user", content="What is 17 + 25? " + "Think of it well. " * 8)]
    counts: list[float] = []
    for start in range(2):
        hybrid = open_hybrid(Settings(), places(), RunFlags())
        request = Request(messages=tuple(turns), session="c1", sampling=Sampling(max_tokens=8))
        read: list[int] = []
        context = hybrid.edge.context  # type: ignore[attr-defined]
        decode = context.decode
        context.decode = lambda t, p, d=decode, r=read, **k: (r.append(len(t)), d(t, p, **k))[1]
        text = "".join([i.text async for i in hybrid.generate(request) if isinstance(i, Delta)])
        context.decode = decode
        await hybrid.aclose()
        counts.append(sum(read))
        if start == 0:
            turns += [Message(role="assistant", content=text), Message(role="user", content="So?")]
    assert counts[0] > 60 and counts[1] < 40
