from __future__ import annotations

import io
import sys

import pytest

from quantize.terminal import ProgressLines, progress_bar


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(seconds: float, total: int, *, first: int = 1) -> list[str]:
    """What is written by work whose every step takes so long."""
    clock, said = Clock(), list[str]()
    tell = ProgressLines("blocks", write=said.append, clock=clock)
    for done in range(first, total + 1):
        clock.now += seconds
        tell(done, total)
    return said


def test_long_work_says_each_twentieth_and_what_is_left() -> None:
    said = lines_of(60.0, 24)
    assert len(said) == 20
    assert said[0] == "blocks: 2 of 24, 22 min left"
    assert said[-1] == "blocks: 24 of 24"


def test_short_work_says_nothing() -> None:
    assert lines_of(0.1, 40) == []


def test_quick_steps_say_a_line_every_five_seconds() -> None:
    assert len(lines_of(0.5, 100)) == 10


def test_work_taken_up_again_does_not_count_what_was_done_before() -> None:
    assert lines_of(60.0, 24, first=23)[0] == "blocks: 23 of 24, 60 s left"


def test_a_log_gets_lines_and_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    log, clock = io.StringIO(), Clock()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr("quantize.terminal.time.monotonic", clock)
    with progress_bar("matrices") as progress:
        clock.now = 200.0
        progress(1, 2)
    assert log.getvalue() == "matrices: 1 of 2, 3 min left\n"
