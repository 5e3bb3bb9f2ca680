from __future__ import annotations

from pathlib import Path

import pytest

from edge.device.pace import Pace
from edge.llama.binding import Model
from edge.llama.context import Context, ContextParams
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
    monkeypatch.setattr("edge.device.pace.Governor", lambda *a, **k: Scripted([2, 2, 1, 1, 2, 2]))
    with Model(tiny_gguf) as model, Context(model, ContextParams(num_tokens=32)) as context:
        monkeypatch.setattr(context, "set_threads", lambda *found: calls.append(found))
        pace = Pace(context)
        pace.before_prompt()
        for _ in range(5):
            with pace.step():
                pass
    assert calls == [(2, 1), (1, 1), (2, 1)]


def test_fixed_threads_are_left_alone(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LlamaEngine(tiny_gguf, options=LlamaOptions(num_threads=1))
    monkeypatch.setattr(engine._context, "set_threads", lambda *_: pytest.fail("changed"))
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
