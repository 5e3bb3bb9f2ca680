"""Where no style is wanted or known, none is written."""

from __future__ import annotations

import io

import pytest

from backbone.showing import write


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
