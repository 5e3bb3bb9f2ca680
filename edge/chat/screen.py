"""Screen interface of the chat, the plain and the JSON screen, and the slash command type."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from backbone.terminal_text import echo, echo_json, write
from edge.chat.leaving_text import Line
from edge.chat.terminal import WHO, document, is_cut, is_seam, taken_back
from offload.messages import Delta, Finish, Side

SEAMS: dict[Side, str] = {
    "cloud": "not sure enough; the far model answers instead",
    "edge": "the far model is gone; the near model answers instead",
}

HELP = "/help shows the commands, Ctrl-C stops an answer, /quit leaves"


def is_command(line: str) -> bool:
    """Whether a line is meant as a slash command, known or not; a path as /etc/hosts is not."""
    name = line.strip().partition(" ")[0]
    return name.startswith("/") and "/" not in name[1:]


class LeaveChat(Exception):
    """Request to leave the chat."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A slash command: what it is for, and what it does with the words behind it."""

    help: str
    act: Callable[[Any, str], Awaitable[None]]
    takes: str = ""


class Screen(Protocol):
    """Screen of a chat: reads questions and shows answers."""

    async def read(self) -> str:
        """Return what the person writes next; EOFError when they leave."""
        ...

    def answering(self) -> AbstractContextManager[None]:
        """Keep what is typed while the block runs for the next question."""
        ...

    def copy(self, text: str) -> bool:
        """Put a text on the clipboard; False where there is no terminal that could."""
        ...

    def reading(self, progress: str) -> None:
        """Say how far a long prompt has been read, until its answer comes."""
        ...

    def show(self, delta: Delta) -> None:
        """Show the next piece of an answer."""
        ...

    def end(self, text: str, finish: Finish | None) -> None:
        """End an answer; `finish` is None where it was stopped."""
        ...

    def remark(self, text: str) -> None:
        """Say something that is not part of an answer."""
        ...

    def fail(self, text: str) -> None:
        """Say what went wrong with what was asked."""
        ...

    def leaving(self, lines: Sequence[Line]) -> None:
        """Show a text that would leave the device, with what was replaced in it marked."""
        ...

    def offer(self, text: str) -> None:
        """Put a text into the next prompt, to be changed and sent."""
        ...

    async def choose(self, question: str, choices: Mapping[str, str]) -> str:
        """Ask; return a key of `choices`, the last where the person will not say."""
        ...


class PlainScreen:
    """Plain screen: lines in, lines out, for pipes, programs and dumb terminals.

    On a terminal every piece is shown as it comes. Elsewhere only the final text is written, so
    that a pipe never carries a withdrawn half-answer.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._asks = sys.stdin.isatty()
        self._live = sys.stdout.isatty() and not as_json
        self._begun = self._reads = False
        self._text = self._offered = ""
        self._source: Side | None = None

    async def read(self) -> str:
        """Return the next line without its end; EOFError after the last."""
        if self._asks:
            offered, self._offered = self._offered, ""
            return await _typed("> ", offered)
        line: str = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def answering(self) -> AbstractContextManager[None]:
        """Leave the lines to the pipe or the terminal, which keep them."""
        return contextlib.nullcontext()

    def copy(self, text: str) -> bool:
        """Know of no clipboard."""
        return False

    def reading(self, progress: str) -> None:
        """Say it once: these lines cannot be written over."""
        if self._live and not self._reads:
            self._reads = True
            self.remark(progress)

    def show(self, delta: Delta) -> None:
        """Write a piece where somebody watches."""
        if not self._live:
            return
        if is_cut(self._text, delta):
            self._write(taken_back(self._text[len(delta.text) :]))
            self._text = delta.text
            return
        self._text = delta.apply(self._text)
        if delta.replaces and self._begun:
            self._write(f"\n-- {SEAMS[delta.source or 'cloud']} --\n")
        elif self._begun and is_seam(self._source, delta):
            self._write(f"[{WHO[delta.source or 'cloud']}:] ")
        self._source = delta.source or self._source
        self._write(delta.text)
        self._begun = True

    def end(self, text: str, finish: Finish | None) -> None:
        """Write the whole answer where its pieces were not shown."""
        self._begun, self._reads, self._source, self._text = False, False, None, ""
        if self._live:
            self._write("\n")
        elif not self._as_json:
            self._write(f"{text}\n")
        elif finish is not None:
            echo_json(json.dumps(document(text, finish), ensure_ascii=False))

    def remark(self, text: str) -> None:
        """Write to stderr, which carries nothing else."""
        echo(text, err=True, faint=True)

    def fail(self, text: str) -> None:
        """Write to stderr; a program reads it as a JSON line too."""
        if self._as_json:
            echo_json(json.dumps({"error": text}, ensure_ascii=False))
        self.remark(text)

    def leaving(self, lines: Sequence[Line]) -> None:
        """Write the lines to stderr."""
        for line in lines:
            for text, style in line:
                write(text, sys.stderr, faint=style == "dim", strong=style == "kept")
            echo(err=True)

    def offer(self, text: str) -> None:
        """Keep it for the next prompt."""
        self._offered = text

    async def choose(self, question: str, choices: Mapping[str, str]) -> str:
        """Ask by letters; nobody at the keyboard is the last choice."""
        refusal = list(choices)[-1]
        if not self._asks:
            return refusal
        legend = ", ".join(f"{key} = {words}" for key, words in choices.items())
        with contextlib.suppress(EOFError):
            reply = (await _typed(f"\n{question} [{legend}] ")).strip().lower()
            return reply if reply in choices else refusal
        return refusal

    def _write(self, text: str) -> None:
        write(text, sys.stdout)


async def _typed(prompt: str, default: str = "") -> str:
    """Read a line of a terminal that may be dumb, without blocking the loop; Ctrl-C ends it."""
    from prompt_toolkit import PromptSession

    session: PromptSession[Any] = PromptSession()
    try:
        return str(await session.prompt_async(prompt, default=default))
    except KeyboardInterrupt:
        raise EOFError from None
