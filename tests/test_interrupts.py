"""Ctrl-C ends a command quietly, whenever it comes."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

import nearfar
from edge.chat.ask_options import AskOptions
from offload.config.places import places


def wrapped() -> None:
    """Fail as Python 3.11 does where Ctrl-C comes while a class is being made."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as stopped:
        raise RuntimeError("Error calling __set_name__") from stopped


def plain() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [wrapped, plain])
def test_ctrl_c_is_no_fault_of_ours(
    stop: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge.chat.welcome.greeting", stop)
    monkeypatch.setattr(sys, "argv", ["nearfar"])
    with pytest.raises(SystemExit) as ended:
        nearfar.main()
    told = capsys.readouterr().err
    assert ended.value.code == 130 and "fault" not in told and "Traceback" not in told


def test_ctrl_c_before_the_page_is_up_ends_the_assistant(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("uvicorn", reason="the assistant needs a web server")
    from edge.assistant.server import PageServer

    async def interrupted(_: str) -> None:
        signal.raise_signal(signal.SIGINT)

    server = PageServer(AskOptions(), places(), port=0, backing=None)
    asyncio.run(server.serve(interrupted))
    assert "Traceback" not in capsys.readouterr().err + caplog.text
