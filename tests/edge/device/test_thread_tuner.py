from __future__ import annotations

from pathlib import Path

import pytest

from edge.device.cpu_load import OthersLoad
from edge.device.governor import ThreadTuner
from edge.llama.context import Context, ContextParams
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.runtime import LlamaEngine
from offload.messages import Request, Sampling


class Scripted:
    """A governor that asks for what it is told."""

    def __init__(self, plan: list[int]) -> None:
        self._plan = plan
        self.prefill_threads = 1
        self.looks = 0

    @property
    def threads(self) -> int:
        return self._plan[0]

    def look(self) -> None:
        self.looks += 1

    def step(self, seconds: float, num_answers: int) -> int:
        assert seconds >= 0 and num_answers == 1
        return self._plan.pop(0)


def test_threads_are_set_only_when_they_change(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "edge.device.governor.Governor", lambda *a, **k: Scripted([2, 2, 1, 1, 2, 2])
    )
    with Model(tiny_gguf) as model, Context(model, ContextParams(num_tokens=32)) as context:
        monkeypatch.setattr(context, "set_threads", lambda *found: calls.append(found))
        tuner = ThreadTuner(context)
        tuner.before_prompt()
        for _ in range(5):
            with tuner.step():
                pass
    assert calls == [(2, 1), (1, 1), (2, 1)]


def test_what_others_used_while_the_model_was_loaded_is_where_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.device.cpu_load.num_usable_cores", lambda: 4)
    now, counters = [0.0], [(0.0, 0.0)]
    others = OthersLoad(
        counters=lambda: counters[0], allowed=lambda: None, clock=lambda: now[0], shortest_s=0.5
    )
    now[0], counters[0] = 2.0, (6.0, 2.0)  # two cores of others
    asked: list[int] = []

    class Computing:
        def set_threads(self, decode: int, prefill: int) -> None:
            asked.append(prefill)

    monkeypatch.setattr("edge.device.governor.Ceiling", lambda cores: cores)
    tuner = ThreadTuner(Computing(), others=others)
    tuner.before_prompt()
    now[0], counters[0] = 4.0, (8.0, 4.0)  # nobody else
    tuner.before_prompt()
    assert asked == [2, 4]


def test_others_are_looked_at_before_each_piece_of_a_prompt(
    tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(max_num_batched_tokens=16))
    looks: list[None] = []
    monkeypatch.setattr(ThreadTuner, "before_prompt", lambda self: looks.append(None))
    assert list(engine.answer(Request(prompt="x" * 100, sampling=Sampling(max_tokens=1))))
    engine.close()
    assert len(looks) >= 100 // 16 + 1


def test_fixed_threads_are_left_alone(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1))
    monkeypatch.setattr(engine.context, "set_threads", lambda *_: pytest.fail("changed"))
    assert list(engine.answer(Request(prompt="hello", sampling=Sampling(max_tokens=5))))
    engine.close()


def test_governed_answers_are_those_of_fixed_threads(tiny_gguf: Path) -> None:
    found = []
    for threads in (0, 1):
        engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=threads))
        request = Request(prompt="hello", sampling=Sampling(max_tokens=40))
        *deltas, _ = engine.answer(request)
        found.append([delta.token_ids for delta in deltas])  # type: ignore[union-attr]
        engine.close()
    assert found[0] == found[1]
