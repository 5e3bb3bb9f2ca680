"""What is typed or pasted while an answer runs waits: as one message, a command as its own."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import termios

import pytest

from edge.chat.typed_ahead import TypedAhead, messages_of


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("hello", "hello"),
        ("helo\x7flo\r", "hello"),
        ("one\rtwo\r", "one\ntwo"),
        ("\x1b[200~a\r\nb\nc\x1b[201~ tail", "a\nb\nc tail"),
        ("\x1b[200~keep \x7f and \x1b[A\x1b[201~", "keep \x7f and \x1b[A"),
        ("\x1b[200~its end has not come", "its end has not come"),
        ("ab\x1b[D\x1b[Cc\x1bOAd\t", "abcd\t"),
        ("a line\rwrong\x15right", "a line\nright"),
        ("\x7f\x7f你好\x7f", "你"),
        ("of\x1b\rtwo lines\r", "of\ntwo lines"),
        ("what is in\r/etc/hosts\r", "what is in\n/etc/hosts"),
        ("\x1b[200~a paste\n/why\n\x1b[201~", "a paste\n/why"),
        ("", ""),
    ],
)
def test_keys_and_pastes_become_the_text_that_they_mean(typed: str, expected: str) -> None:
    assert messages_of(typed) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("/why\r", ["/why"]),
        ("one\rtwo\r/why\r/versions\rthree", ["one\ntwo", "/why", "/versions", "three"]),
        ("/whx\x7fy\r\r", ["/why"]),
        ("\x1b[200~a\nb\x1b[201~\r/system be brief\r", ["a\nb", "/system be brief"]),
    ],
)
def test_a_command_that_was_typed_ahead_is_a_message_of_its_own(
    typed: str, expected: list[str]
) -> None:
    assert messages_of(typed) == expected


async def read_until(ahead: TypedAhead, size: int) -> None:
    while len(ahead._typed) < size:
        await asyncio.sleep(0)


async def test_a_paste_larger_than_a_line_of_the_terminal_is_kept_whole() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours, "rb+", 0) as keys:
        out = io.StringIO()
        ahead = TypedAhead(terminal, out)
        before = termios.tcgetattr(terminal)
        pasted = "\n".join(f"line {number}" for number in range(2000))
        typed = f"\x1b[200~{pasted}\x1b[201~".encode()
        with ahead.listening():
            assert not termios.tcgetattr(terminal)[3] & (termios.ECHO | termios.ICANON)
            assert termios.tcgetattr(terminal)[3] & termios.ISIG, "Ctrl-C stays a signal"
            writing = asyncio.to_thread(keys.write, typed)
            await asyncio.wait_for(asyncio.gather(writing, read_until(ahead, len(typed))), 20)
        assert termios.tcgetattr(terminal) == before
        assert out.getvalue() == "\x1b[?2004h\x1b[?2004l"
        assert ahead.take() == pasted
        assert ahead.take() == "", "once"


async def test_messages_that_wait_are_given_one_by_one() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours, "rb+", 0) as keys:
        ahead = TypedAhead(terminal, io.StringIO())
        with ahead.listening():
            keys.write(b"first\r/why\r")
            await asyncio.wait_for(read_until(ahead, 11), 20)
        assert ahead.take() == "first"
        with ahead.listening():
            keys.write(b"later\r")
            await asyncio.wait_for(read_until(ahead, 6), 20)
        assert [ahead.take(), ahead.take(), ahead.take()] == ["/why", "later", ""]


async def test_another_prompt_has_the_terminal_while_it_asks() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as terminal, os.fdopen(ours, "rb+", 0):
        ahead = TypedAhead(terminal, io.StringIO())
        with ahead.listening():
            with ahead.paused():
                assert termios.tcgetattr(terminal)[3] & termios.ICANON
            assert not termios.tcgetattr(terminal)[3] & termios.ICANON
        with ahead.paused():
            assert termios.tcgetattr(terminal)[3] & termios.ICANON
        assert termios.tcgetattr(terminal)[3] & termios.ICANON
