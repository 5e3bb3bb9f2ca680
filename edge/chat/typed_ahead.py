"""Typed ahead: what a person types or pastes while an answer runs waits for the next prompts.

It waits as one message; a slash command among its lines is a message of its own.

The terminal is taken out of its line mode meanwhile: in that mode it would cut a paste at 4,096
characters, make a question of each of its lines, and write `^C` into the answer. Ctrl-C stays a
signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import Any, TextIO

from edge.chat.screen import is_command

_PASTE = re.compile(r"\x1b\[200~(.*?)(?:\x1b\[201~|$)", re.DOTALL)
# Keys that are no text, such as arrows: CSI and SS3 sequences, and Alt with a character.
_KEYS = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~]|[^\r\n])?", re.DOTALL)
_ALT_ENTER = re.compile(r"\x1b[\r\n]")
_SENT = "\r"  # where Enter was pressed; other line ends have become \n
_MAX_BYTES = 1_000_000  # as much as a question may hold


def messages_of(typed: str) -> list[str]:
    """Return what keys and pastes have made: one text, or several with commands between them.

    Backspaces are applied, other keys left out. What was pasted is taken as it is.
    """
    made: list[str] = []  # characters
    at = 0
    for paste in _PASTE.finditer(typed):
        _apply(typed[at : paste.start()], made)
        made += _lines(paste[1])
        at = paste.end()
    _apply(typed[at:], made)
    runs = groupby("".join(made).split(_SENT), key=is_command)
    sent = [list(lines) if command else ["\n".join(lines)] for command, lines in runs]
    texts = [text.rstrip("\n") for each in sent for text in each]
    return [text for text in texts if text.strip()]


def _apply(keys: str, made: list[str]) -> None:
    for number, part in enumerate(_ALT_ENTER.split(keys)):
        made += ["\n"] if number else []
        for key in _lines(_KEYS.sub("", part)):
            if key in "\x7f\x08":
                del made[-1:]
            elif key == "\x15":  # Ctrl-U takes the line back
                while made and made[-1] not in ("\n", _SENT):
                    made.pop()
            elif key == "\n":
                made.append(_SENT)
            elif key == "\t" or key >= " ":
                made.append(key)


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


class TypedAhead:
    """Reads the terminal while a block runs; `take` gives what was typed, message by message."""

    def __init__(self, terminal: TextIO = sys.stdin, out: TextIO = sys.stdout) -> None:
        self._terminal, self._out = terminal, out
        self._typed = b""
        self._waiting: list[str] = []
        self._before: list[Any] | None = None  # the terminal's own mode, while it is another

    def take(self) -> str:
        """Return the next message that was typed, once; empty where none waits."""
        typed, self._typed = self._typed, b""
        self._waiting += messages_of(typed.decode("utf-8", "replace"))
        return self._waiting.pop(0) if self._waiting else ""

    def offer(self, text: str) -> None:
        """Let a text wait before all that was typed."""
        self._waiting.insert(0, text)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Read the terminal while the block runs."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to another prompt while the block runs."""
        was_on = self._before is not None
        self.stop()
        try:
            yield
        finally:
            if was_on:
                self.start()

    def start(self) -> None:
        """Begin to read."""
        try:
            import termios
        except ModuleNotFoundError:  # Windows has no such mode
            return
        number = self._terminal.fileno()
        self._before = termios.tcgetattr(number)
        mode = termios.tcgetattr(number)
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        termios.tcsetattr(number, termios.TCSANOW, mode)
        self._say("\x1b[?2004h")  # pastes come between marks
        asyncio.get_running_loop().add_reader(number, self._read)

    def stop(self) -> None:
        """Give the terminal back."""
        if self._before is None:
            return
        import termios

        number = self._terminal.fileno()
        asyncio.get_running_loop().remove_reader(number)
        self._say("\x1b[?2004l")
        termios.tcsetattr(number, termios.TCSANOW, self._before)
        self._before = None

    def _read(self) -> None:
        room = _MAX_BYTES - len(self._typed)
        with contextlib.suppress(OSError):
            self._typed += os.read(self._terminal.fileno(), 65_536)[: max(0, room)]

    def _say(self, sequence: str) -> None:
        self._out.write(sequence)
        self._out.flush()
