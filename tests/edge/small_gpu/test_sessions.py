"""Conversations of a folder's model: kept across turns and starts, and their files not trusted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from edge.small_gpu.runtime import TorchEdgeEngine, TorchOptions
from engine.torch.runner import Runner
from engine.torch.step import Slice, StepResult
from offload.asker import asked_by
from offload.messages import Delta, Finish, Message, Request, Sampling
from tests.tiny_checkpoints import write_checkpoint

FIRST = "what is seventeen plus twenty-five, and how many seconds has an hour? 0123456789 hours?"
NEVER_ENDS = {0: -100.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("sessions"), "qwen3")


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Callable[..., TorchEdgeEngine]:
    def make(**options: Any) -> TorchEdgeEngine:
        values = {"device": "cpu", "kv_block": 8, "kv_residual": 8} | options
        return TorchEdgeEngine(
            folder, options=TorchOptions(session_folder=tmp_path / "sessions", **values)
        )

    return make


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each step evaluated."""
    whole, seen = Runner.step, []

    def call(self: Runner, slices: Sequence[Slice]) -> list[StepResult]:
        seen.append(sum(slice_.num_tokens for slice_ in slices))
        return whole(self, slices)

    monkeypatch.setattr(Runner, "step", call)
    return seen


def turn(engine: TorchEdgeEngine, prompt: str, **changes: Any) -> tuple[str, int]:
    """Return the answer and how many tokens of the prompt had to be read."""
    sampling = Sampling(max_tokens=6, logit_bias=NEVER_ENDS)
    values: dict[str, Any] = {"prompt": prompt, "sampling": sampling, "session": "s"} | changes
    *deltas, finish = engine.answer(Request(**values))
    assert isinstance(finish, Finish)
    text = "".join(delta.text for delta in deltas if isinstance(delta, Delta))
    return text, finish.usage.prompt_tokens - finish.usage.cached_tokens


Start = Callable[..., TorchEdgeEngine]


@pytest.mark.parametrize("kind", ["f16", "int8", "int4"])
def test_tomorrow_only_what_is_new_is_read(kind: str, start: Start, sizes: list[int]) -> None:
    engine = start(kv_cache_dtype=kind)
    turn(engine, FIRST)
    today = turn(engine, FIRST + " and the cat")
    engine.close()
    del sizes[:]
    engine = start(kv_cache_dtype=kind)
    later, num_read = turn(engine, FIRST + " and the cat")
    assert num_read < 8 and sizes[0] == num_read
    assert later == today[0]
    engine.close()


def test_a_conversation_makes_room_and_comes_back(start: Start) -> None:
    engine = start(max_num_seqs=1)
    turn(engine, FIRST)
    turn(engine, "0123456789 9876543210", session="other")
    assert turn(engine, FIRST + " and")[1] < 8
    engine.close()


def test_a_window_that_slid_comes_back_as_it_was(start: Start) -> None:
    options = {"max_model_len": 64, "window": 64, "kv_cache_dtype": "f16"}
    long = Sampling(max_tokens=80, logit_bias=NEVER_ENDS)
    ask = Message(role="user", content="the cat sat on the mat")
    engine = start(**options)
    *_, finish = engine.answer(Request(messages=(ask,), sampling=long, session="s"))
    assert isinstance(finish, Finish) and finish.dropped_tokens > 0
    (slot,) = engine.slots.free
    held = (slot.ring.plain_at, [block.at for block in slot.ring.blocks], slot.stream)
    plain = slot.ring.plain[:, :, : len(slot.ring.plain_at)].clone()
    engine.close()
    again = start(**options)
    (slot,) = again.slots.free
    found = again.slots.store.load("s")
    from engine.torch.kv.ring_slots import restore

    assert found is not None and restore(slot, found)
    assert (slot.ring.plain_at, [block.at for block in slot.ring.blocks], slot.stream) == held
    assert bool((slot.ring.plain[:, :, : len(slot.ring.plain_at)] == plain).all())
    slot.clear()
    again.close()


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_file_that_is_damaged_or_foreign_is_ignored(
    damage: str, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = start()
    first, whole = turn(engine, FIRST)
    engine.close()
    (path,) = (tmp_path / "sessions").glob("*.kv")
    data = path.read_bytes()
    spoilt = {
        "cut": data[: len(data) // 2],
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
        "foreign": b"something else",
    }
    path.write_bytes(spoilt[damage])
    engine = start()
    with caplog.at_level(logging.WARNING, logger="nearfar.sessions"):
        assert turn(engine, FIRST) == (first, whole)
    assert "ignored" in caplog.text and "seventeen" not in caplog.text
    engine.close()


def test_a_cache_of_another_kind_is_never_found(start: Start) -> None:
    engine = start(kv_cache_dtype="int8")
    _, whole = turn(engine, FIRST)
    engine.close()
    engine = start(kv_cache_dtype="int4")
    assert turn(engine, FIRST)[1] == whole
    engine.close()


def test_a_state_whose_books_make_no_sense_is_refused(start: Start) -> None:
    from safetensors.torch import load, save

    from engine.sessions import Saved
    from engine.torch.kv.ring_slots import restore, saved

    engine = start()
    turn(engine, FIRST)
    (slot,) = engine.slots.free
    good = saved(slot, "m")
    for name, change in (
        ("plain_at", lambda t: t + 1000),
        ("plain_at", lambda t: t.flip(0)),
        ("blocks_at", lambda t: t[:, :4]),
        ("keys.codes", lambda t: t[:1]),
        ("keys.least", lambda t: t.float()),
    ):
        tensors = load(good.state)
        tensors[name] = change(tensors[name]).contiguous()
        assert not restore(slot, Saved(header=good.header, state=save(tensors))), name
        assert not slot.stream and slot.ring.used == 0
    assert not restore(slot, Saved(header=good.header, state=b"nonsense"))
    assert restore(slot, good)
    engine.close()


async def test_what_is_forgotten_is_gone_from_memory_and_disk(start: Start, tmp_path: Path) -> None:
    engine = start()
    _, whole = turn(engine, FIRST)
    await engine.forget("s")
    assert turn(engine, FIRST)[1] == whole
    await engine.forget("s")
    await engine.aclose()
    assert not list((tmp_path / "sessions").glob("*.kv"))


def test_reuse_can_be_switched_off(start: Start) -> None:
    engine = start(enable_prefix_caching=False)
    first = turn(engine, FIRST)
    assert turn(engine, FIRST) == first
    engine.close()


def test_nobody_profits_from_anothers_text(start: Start, tmp_path: Path) -> None:
    engine = start(max_num_seqs=1)
    with asked_by("alice"):
        _, whole = turn(engine, FIRST)
        assert turn(engine, FIRST)[1] == 1, "the last token is always read"
    with asked_by("bob"):
        assert turn(engine, FIRST)[1] == whole
    assert turn(engine, FIRST, cache_salt="pepper")[1] == whole
    engine.close()
    assert len(list((tmp_path / "sessions").glob("*.kv"))) == 2, "salted text is not kept"
