"""What `nearfar ask` says beside the answer."""

from __future__ import annotations

import io

import pytest

from edge.chat import ask
from edge.chat.ask import ask_once
from edge.chat.ask_options import AskOptions
from edge.chat.terminal import StreamReader
from offload.config.settings import Settings
from offload.messages import Delta, Finish, FinishReason, Request, Route, Sampling
from tests.offload.scripted import ScriptedEngine


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "limit of 8 tokens"), ("stop", ""), ("cancelled", "")]
)
def test_an_answer_that_was_cut_off_is_said_with_how_to_get_more(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reason: FinishReason,
    told: str,
) -> None:
    end = Finish(reason=reason, route=Route(served_by="edge", reason="no_cloud"))
    engine = ScriptedEngine([Delta(text="The sea is")], finish=end)

    async def answered(
        settings: Settings, wish: AskOptions, request: Request, reader: StreamReader
    ) -> Finish:
        return await reader.read(engine.generate(request))

    monkeypatch.setattr(ask, "_ask", answered)
    assert ask_once("Tell of the sea", AskOptions(max_tokens=8), why=False, as_json=False) == 0
    captured = capsys.readouterr()
    assert captured.out == "The sea is\n"
    assert told in captured.err and bool(captured.err) is bool(told)
    assert ("--max-tokens 32" in captured.err) is bool(told)


@pytest.mark.parametrize(
    ("wish", "as_json", "expected"),
    [
        (AskOptions(seed=4), False, Sampling(own=True, max_tokens=1024, seed=4)),
        (AskOptions(), True, Sampling(max_tokens=1024)),
        (AskOptions(temperature=0.5), True, Sampling(temperature=0.5, max_tokens=1024)),
        (AskOptions(temperature=0.0), False, Sampling(max_tokens=1024)),
    ],
)
def test_an_answer_is_drawn_unless_a_program_reads_it(
    monkeypatch: pytest.MonkeyPatch, wish: AskOptions, as_json: bool, expected: Sampling
) -> None:
    asked: list[Sampling] = []

    async def answered(
        settings: Settings, wish: AskOptions, request: Request, reader: StreamReader
    ) -> Finish:
        asked.append(request.sampling)
        return await reader.read(ScriptedEngine([Delta(text="42")]).generate(request))

    monkeypatch.setattr(ask, "_ask", answered)
    ask_once("6 x 7?", wish, why=False, as_json=as_json)
    assert asked == [expected]


async def test_how_far_a_prompt_has_been_read_stands_on_stderr_until_the_answer_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    engine = ScriptedEngine(("42",), reads=((0, 5000), (512, 5000)))
    reader = StreamReader(io.StringIO())
    await reader.read(engine.generate(Request(prompt="?")))
    shown = terminal.getvalue()
    assert "reading 512 of 5,000 tokens" in shown
    assert shown.endswith("\r\x1b[K")
    assert reader.text == "42"


async def test_a_program_and_a_pipe_are_told_nothing_of_the_reading(
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = ScriptedEngine(("42",), reads=((0, 5000),))
    await StreamReader().read(engine.generate(Request(prompt="?")))
    assert capsys.readouterr() == ("42\n", "")
