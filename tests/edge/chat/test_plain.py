"""Where no style is wanted or known, none is written."""

from __future__ import annotations

import io

import pytest

from backbone.terminal_text import write
from edge.chat.terminal import StreamReader
from offload.messages import Request
from tests.offload.scripted import ScriptedEngine


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(text: str, stream: io.StringIO) -> str:
    write(text, stream, faint=True)
    return stream.getvalue()


def test_words_are_faint_on_a_terminal_that_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert shown("near\n", _Terminal()) == "\x1b[2mnear\x1b[0m\n"
    assert shown("near\n", io.StringIO()) == "near\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_style_is_written_where_it_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert shown("near", _Terminal()) == "near"


async def test_a_pipe_gets_the_answer_without_the_thoughts_before_it() -> None:
    out = io.StringIO()
    reader = StreamReader(out)
    engine = ScriptedEngine(["<think>", "Let me see.", "</think>", "\n", "It is 4."])
    await reader.read(engine.generate(Request(prompt="2+2?")))
    assert (out.getvalue(), reader.thoughts) == ("It is 4.\n", "Let me see.")
