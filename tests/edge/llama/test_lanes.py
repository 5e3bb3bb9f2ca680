from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from backbone.errors import NearfarError
from edge.llama.context import BatchPart
from edge.llama.lanes import PATIENCE, moves_to_one_run
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.errors import ContextLengthError, SettingsError
from offload.messages import Delta, Finish, Request, Sampling

PROMPTS = ("one", "a somewhat longer second prompt", "three", "and the fourth")


def _engine(path: Path, num_seqs: int = 4, **options: object) -> LlamaEngine:
    # In float32: a step of several sequences may round otherwise than one of one.
    known = {"num_threads": 1, "kv_cache_dtype": "f32", "flash_attention": False, **options}
    return LlamaEngine(path, options=LlamaOptions(max_num_seqs=num_seqs, **known))  # type: ignore


@pytest.fixture
def engine(tiny_gguf: Path):
    engine = _engine(tiny_gguf)
    yield engine
    engine.close()


async def _ask(engine: LlamaEngine, prompt: str, **sampling: object) -> tuple[list[int], Finish]:
    settings = Sampling(**{"max_tokens": 25, **sampling})  # type: ignore[arg-type]
    *deltas, finish = [i async for i in engine.generate(Request(prompt=prompt, sampling=settings))]
    assert isinstance(finish, Finish)
    return [t for d in deltas if isinstance(d, Delta) for t in d.token_ids], finish


def _record(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> list[list[BatchPart]]:
    """Return a list that fills with the parts of each step."""
    recorded: list[list[BatchPart]] = []
    decode = engine.context.decode_parts

    def recording(parts: list[BatchPart]) -> None:
        recorded.append(list(parts))
        decode(parts)

    monkeypatch.setattr(engine.context, "decode_parts", recording)
    return recorded


async def test_answers_together_are_those_written_alone(
    engine: LlamaEngine, tiny_gguf: Path
) -> None:
    alone = _engine(tiny_gguf, num_seqs=1)
    expected = [(await _ask(alone, prompt))[0] for prompt in PROMPTS * 2]
    alone.close()
    together = await asyncio.gather(*(_ask(engine, prompt) for prompt in PROMPTS * 2))
    assert [tokens for tokens, _ in together] == expected


async def test_answers_share_steps(engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.llama.lanes.STRAGGLER_S", 30.0)  # whatever else this machine does
    recorded = _record(engine, monkeypatch)
    await asyncio.gather(*(_ask(engine, prompt) for prompt in PROMPTS))
    num_parts = sum(len(step) for step in recorded)
    assert num_parts == 4 * 25, "a prompt and 24 further tokens each"
    steps = [{part.seq for part in step} for step in recorded]
    for seq in range(4):
        places = [place for place, step in enumerate(steps) if seq in step]
        assert places == list(range(places[0], places[-1] + 1)), "nobody is left behind"


async def test_lanes_with_gaps_between_them_write_as_if_alone(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lanes 0, 2 and 5 of eight, after the others have ended in the midst of their answers."""
    alone = _engine(tiny_gguf, num_seqs=1)
    expected = [(await _ask(alone, str(n), max_tokens=60))[0] for n in range(8)]
    alone.close()
    engine = _engine(tiny_gguf, num_seqs=8)

    async def one(number: int) -> list[int]:
        stream = engine.generate(Request(prompt=str(number), sampling=Sampling(max_tokens=60)))
        tokens: list[int] = []
        async for item in stream:
            tokens += item.token_ids if isinstance(item, Delta) else ()
            if number not in (0, 2, 5) and len(tokens) >= 5 + number:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        return tokens

    found = await asyncio.gather(*map(one, range(8)))
    engine.close()
    for number, tokens in enumerate(found):
        whole = number in (0, 2, 5)
        assert tokens == (expected[number] if whole else expected[number][: 5 + number])


@pytest.mark.parametrize(
    ("seqs", "moves"),
    [
        ([1, 2, 3], []),
        ([0, 4], [(4, 1)]),
        ([0, 2, 4, 6], [(4, 1), (6, 3)]),
        ([0, 6, 7], [(0, 5)]),
        ([7], []),
    ],
)
def test_those_that_write_are_moved_side_by_side(
    seqs: list[int], moves: list[tuple[int, int]]
) -> None:
    assert moves_to_one_run(seqs, 8) == moves


async def test_a_gap_is_closed_in_mid_answer_and_nobody_s_text_changes(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else llama.cpp would go on evaluating them one behind another."""
    monkeypatch.setattr("edge.llama.lanes.STRAGGLER_S", 30.0)
    engine = _engine(tiny_gguf, num_seqs=8)
    recorded = _record(engine, monkeypatch)
    limits = [60 if number in (0, 5) else 4 for number in range(8)]
    expected = [(await _ask(engine, f"{n} alone", max_tokens=m))[0] for n, m in enumerate(limits)]
    del recorded[:]
    found = await asyncio.gather(
        *(_ask(engine, f"{n} alone", max_tokens=m) for n, m in enumerate(limits))
    )
    again = [(await _ask(engine, f"{n} alone", max_tokens=m))[0] for n, m in enumerate(limits)]
    engine.close()
    assert [tokens for tokens, _ in found] == expected == again
    pairs = [sorted(part.seq for part in step) for step in recorded if len(step) == 2]
    assert len(pairs) > 30 and pairs[-1][1] - pairs[-1][0] == 1
    assert sum(pair[1] - pair[0] > 1 for pair in pairs) <= PATIENCE


async def test_more_than_can_be_moved_quickly_stays_where_it_is(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.llama.lanes.MOST_MOVED", 0)
    engine = _engine(tiny_gguf, num_seqs=8)
    moved: list[tuple[int, int]] = []
    monkeypatch.setattr(engine.context, "swap", lambda *pair: moved.append(pair))
    limits = [40 if number in (0, 5) else 4 for number in range(8)]
    await asyncio.gather(*(_ask(engine, str(n), max_tokens=m) for n, m in enumerate(limits)))
    engine.close()
    assert not moved


async def test_long_prompt_comes_in_pieces_while_others_write(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = engine.generate(Request(prompt="hello", sampling=Sampling(max_tokens=100)))
    await anext(stream)
    recorded = _record(engine, monkeypatch)
    await _ask(engine, "x" * 200, max_tokens=2)
    await stream.aclose()  # type: ignore[attr-defined]
    sizes = [len(part.tokens) for step in recorded for part in step]
    assert max(sizes) <= 64 and sum(sizes) >= 200


async def test_one_that_is_left_does_not_disturb_the_others(engine: LlamaEngine) -> None:
    expected, _ = await _ask(engine, "hello", max_tokens=60)
    stream = engine.generate(Request(prompt="other", sampling=Sampling(max_tokens=200)))
    await anext(stream)
    other = asyncio.ensure_future(_ask(engine, "hello", max_tokens=60))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    assert (await other)[0] == expected


def test_a_reader_who_pauses_holds_up_nobody(engine: LlamaEngine) -> None:
    paused = engine.answer(Request(prompt="paused", sampling=Sampling(max_tokens=50)))
    next(paused)
    done = threading.Event()

    def other() -> None:
        *_, finish = engine.answer(Request(prompt="other", sampling=Sampling(max_tokens=20)))
        assert isinstance(finish, Finish) and finish.usage.completion_tokens == 20
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert done.wait(60)
    thread.join()
    assert len(list(paused)) >= 49


async def test_each_conversation_finds_its_own_text_again(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["the first conversation, ", "quite another one, ", "and a third of them, "]
    for text in texts:
        await _ask(engine, text, max_tokens=1)
    recorded = _record(engine, monkeypatch)
    for text in texts:
        await _ask(engine, text + "more", max_tokens=1)
    assert sum(len(part.tokens) for step in recorded for part in step) == 3 * len("more")


async def test_refused_requests_leave_their_seat(engine: LlamaEngine) -> None:
    for _ in range(6):
        with pytest.raises(ContextLengthError):
            await _ask(engine, "x" * 300)
    assert len(await asyncio.gather(*(_ask(engine, prompt) for prompt in PROMPTS))) == 4


async def test_failed_step_ends_its_answers_and_the_next_are_sound(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [(await _ask(engine, prompt))[0] for prompt in PROMPTS]
    decode, count = engine.context.decode_parts, [0]

    def failing(parts: list[BatchPart]) -> None:
        count[0] += 1
        if count[0] == 10:
            raise NearfarError("out of luck; try again")
        decode(parts)

    with monkeypatch.context() as patch:
        patch.setattr(engine.context, "decode_parts", failing)
        found = await asyncio.gather(*(_ask(engine, p) for p in PROMPTS), return_exceptions=True)
    failed = [f for f in found if isinstance(f, NearfarError) or f[1].reason == "error"]  # type: ignore
    assert failed
    assert [t for t, _ in await asyncio.gather(*(_ask(engine, p) for p in PROMPTS))] == expected


async def test_windows_slide_in_every_lane(tiny_gguf: Path) -> None:
    engine = _engine(tiny_gguf, num_seqs=3, window=60, kv_cache_dtype="q8_0", flash_attention=True)
    found = await asyncio.gather(*(_ask(engine, p, max_tokens=150) for p in PROMPTS[:3]))
    engine.close()
    assert all(finish.dropped_tokens > 80 for _, finish in found if finish.reason == "length")
    assert any(finish.reason == "length" for _, finish in found)


async def test_conversations_in_lanes_are_kept_on_disk(tiny_gguf: Path, tmp_path: Path) -> None:
    text = "a conversation of some length, "
    first = _engine(tiny_gguf, num_seqs=2, session_folder=tmp_path)
    for name in ("a", "b", "c"):
        request = Request(prompt=text * 2 + name, session=name, sampling=Sampling(max_tokens=3))
        assert [item async for item in first.generate(request)]
    first.close()
    assert len(list(tmp_path.glob("*.kv"))) == 3


async def test_sampled_and_bound_answers_mix(engine: LlamaEngine) -> None:
    schema = {"enum": ["yes", "no"]}
    bound, free = await asyncio.gather(
        _ask(engine, "is it?", json_schema=schema), _ask(engine, "hello", temperature=1.0, seed=3)
    )
    assert engine.detokenize(bound[0]) in (b'"yes"', b'"no"')
    assert free[0] == (await _ask(engine, "hello", temperature=1.0, seed=3))[0]


def test_memory_is_planned_for_all(wide_memory: Callable[[int], int]) -> None:
    assert wide_memory(4) == pytest.approx(4 * wide_memory(1), rel=0.01)


@pytest.fixture
def wide_memory(tiny_gguf: Path) -> Callable[[int], int]:
    from edge.llama.fit import measure
    from edge.llama.native_handles import Model
    from edge.llama.plan import plan

    def cache_bytes(num_seqs: int) -> int:
        options = LlamaOptions(max_num_seqs=num_seqs, kv_cache_dtype="f32", flash_attention=False)
        with Model(tiny_gguf) as model:
            return measure(tiny_gguf, plan(model, options, 10**12)).cache_bytes

    return cache_bytes


def test_no_sequences_are_refused() -> None:
    with pytest.raises(SettingsError, match="max_num_seqs is 0"):
        LlamaOptions(max_num_seqs=0)


def test_logits_of_lanes_are_copies(engine: LlamaEngine) -> None:
    cache = engine.slots.all[0].cache
    list(cache.read([1, 2, 3], engine.generation.pins(cache, Request(prompt="x"), [1, 2, 3])))
    kept = cache.logits(0)
    before = kept.copy()
    other = engine.slots.all[1].cache
    list(other.read([4, 5], engine.generation.pins(other, Request(prompt="x"), [4, 5])))
    np.testing.assert_array_equal(kept, before)
