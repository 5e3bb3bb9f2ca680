"""Where no style is wanted or known, none is written."""

from __future__ import annotations

import pytest

from edge.desk.terminal import faint


def test_words_are_faint_on_a_terminal_that_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert faint("near") == "\x1b[2mnear\x1b[0m"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_style_is_written_where_it_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    assert faint("near") == "near"
