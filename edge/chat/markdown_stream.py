"""Streaming Markdown: prints what can no longer change, and redraws the rest.

Only the last block is drawn again at each piece, so that the cost of a piece does not grow with
the answer, and what was printed can be scrolled back to.
"""

from __future__ import annotations

import re
import time
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import CodeBlock, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text

REDRAWS_PER_S = 15
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})", re.MULTILINE)


def settled(text: str) -> int:
    """Return how much of the text is whole blocks: up to the last blank line outside a fence."""
    end, fence, place = 0, "", 0
    for line in text.splitlines(keepends=True):
        mark = _FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        place += len(line)
        if not fence and not line.strip() and line.endswith("\n"):
            end = place
    return end


class MarkdownStream:
    """Markdown stream: one answer on a Rich console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._drawn_at = 0.0
        self._tail = ""
        self._waits = "…"
        self.text = ""

    def wait(self, progress: str) -> None:
        """Say what is waited for, until the first piece comes."""
        if not self.text:
            self._waits = progress
            self._draw()

    def write(self, text: str) -> None:
        """Add a piece; blocks that it completes are printed for good."""
        self.text += text
        self._tail += text
        end = settled(self._tail)
        if end:
            self._print(self._tail[:end])
            self._console.print()  # between two blocks
            self._tail = self._tail[end:]
        now = time.monotonic()
        if now - self._drawn_at >= 1 / REDRAWS_PER_S:
            self._drawn_at = now
            self._draw()

    def pause(self) -> None:
        """Take the moving part off the screen; the next piece brings it back."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def end(self) -> None:
        """Print what is left."""
        self._print(self._tail)
        self._tail = ""

    def cut(self, text: str) -> None:
        """Take back the end of the text, as far as it is not printed for good."""
        printed = len(self.text) - len(self._tail)
        self.text, self._tail = text, text[printed:]
        self._draw()

    def withdraw(self) -> None:
        """Begin anew; what was printed stays above, as a withdrawn attempt."""
        self.end()
        self.text = ""

    def _print(self, text: str) -> None:
        self.pause()
        if text.strip():
            self._console.print(_markdown(text))

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self._window(), refresh=True)

    def _window(self) -> RenderableType:
        """Return the moving block, its end only where it is higher than the screen."""
        if not self._tail.strip():
            return Text(self._waits, style="dim")
        height = max(1, self._console.height - 2)
        lines = self._tail.splitlines()
        if len(lines) > height:
            return Text("\n".join(lines[-height:]), overflow="fold")
        return _markdown(self._tail)


class _PlainCode(CodeBlock):
    """A code block without a margin or a background, so that it is copied as it is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(
            code, self.lexer_name, theme=self.theme, word_wrap=True, background_color="default"
        )


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "fence": _PlainCode,
        "code_block": _PlainCode,
    }


def _markdown(text: str) -> Markdown:
    return _Markdown(text, code_theme="ansi_dark", hyperlinks=False)
