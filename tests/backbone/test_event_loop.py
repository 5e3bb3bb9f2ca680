"""A server runs on uvloop where it is installed and not switched off."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace

import pytest

from backbone.event_loop import SWITCH, run_server


@pytest.mark.parametrize(
    ("installed", "switch", "expected"),
    [(True, "", "uvloop"), (True, "asyncio", "asyncio"), (False, "", "asyncio")],
)
def test_the_quicker_loop_is_taken_where_it_is(
    monkeypatch: pytest.MonkeyPatch, installed: bool, switch: str, expected: str
) -> None:
    ran: list[str] = []

    async def main() -> None:
        ran.append("main")

    def run(coroutine: object) -> None:
        ran.append("uvloop")
        asyncio.run(coroutine)  # type: ignore[arg-type]

    fake = SimpleNamespace(run=run) if installed else None
    monkeypatch.setitem(sys.modules, "uvloop", fake)  # type: ignore[arg-type]
    monkeypatch.setenv(SWITCH, switch)
    run_server(main())
    assert ran == (["uvloop", "main"] if expected == "uvloop" else ["main"])
