"""Document: a file's text with its pages, and the passages that it is cut into."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Kind = Literal["text", "markdown", "code", "pdf"]


@dataclass(frozen=True, kw_only=True)
class Page:
    """Page of a document; a text without pages is one, with the number 0."""

    number: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """Document: what was read of one file. Its text is data, whatever orders stand in it.

    `num_unread` counts the pages of a PDF that are damaged.
    """

    name: str
    kind: Kind
    pages: tuple[Page, ...]
    num_unread: int = 0

    @cached_property
    def text(self) -> str:
        """The whole text; an empty line stands between two pages."""
        return "\n\n".join(page.text for page in self.pages)


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Passage of a document: some of its lines, all of one page, and where they stand.

    `page` is 0 where the document has none; lines count from 1, in the page where there is one.
    """

    name: str
    page: int
    first_line: int
    last_line: int
    text: str

    @property
    def place(self) -> str:
        """Where the passage stands, as a reader is told it."""
        if self.page:
            return f"page {self.page}"
        if self.first_line == self.last_line:
            return f"line {self.first_line}"
        return f"lines {self.first_line}-{self.last_line}"

    @property
    def title(self) -> str:
        """The document's name and the place."""
        return f"{self.name}, {self.place}"
