"""Attachments: text files that stand before a question, and a question apart from them."""

from __future__ import annotations

import re
from typing import NamedTuple

from backbone.terminal_text import readable


class AttachedQuestion(NamedTuple):
    """A question apart from the files that are attached to it, each a name and its text."""

    files: tuple[tuple[str, str], ...]
    question: str

    def shown(self) -> str:
        """Return the question with the names of its files."""
        names = " ".join(f"[{name}]" for name, _ in self.files)
        return f"{names} {self.question}".strip()


def apart(text: str) -> AttachedQuestion:
    """Return a question apart from what with_files() has put before it."""
    files = []
    while (found := _ATTACHED.match(text)) is not None:
        files.append((found["name"], found["text"]))
        text = text[found.end() :]
    return AttachedQuestion(tuple(files), text)


_ATTACHED = re.compile(
    r"(?P<name>[^\n]{1,255}):\n(?P<fence>`{3,})\n(?P<text>.*?)\n(?P=fence)\n\n(?=\S)", re.DOTALL
)


def fenced(name: str, text: str) -> str:
    """Return a text under its name, in a fence that nothing inside can close."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{readable(name)}:\n{fence}\n{text.rstrip()}\n{fence}"
