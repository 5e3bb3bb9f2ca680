"""Answer context: whether a place in an answer is within a link or a string, read once.

An original put into a link that the cloud wrote would go, at a click or when a picture is fetched,
to whom the cloud likes.
"""

from __future__ import annotations

import re

_DEFINITION = re.compile(r"\s{0,9}\[[^\]\n]{0,200}\]:")
_LINK = re.compile(r"//|www\.|\]\(|(?:mailto|data|javascript|tel):", re.IGNORECASE)
_MAX_KEPT = 256  # characters of a word and of a line's beginning; links show in their first ones


class LinkWatch:
    """Link watch: whether the text so far ends within an address, a link's target or a tag."""

    def __init__(self) -> None:
        self._word = self._line = ""
        self._linked = False  # this word, whatever comes of it
        self._in_target = self._in_tag = False

    @property
    def is_inside(self) -> bool:
        """Whether what comes next stands in a link."""
        in_definition = _DEFINITION.match(self._line) is not None
        return self._linked or self._in_target or self._in_tag or in_definition

    def see(self, text: str) -> None:
        """Go on behind this text."""
        for character in text:
            self._one(character)

    def _one(self, character: str) -> None:
        if character == "\n" and not self._line.strip():
            self._in_target = self._in_tag = False  # a blank line ends whatever was open
        self._line = "" if character == "\n" else (self._line + character)[:_MAX_KEPT]
        if character.isspace():
            self._word, self._linked = "", False
            return
        self._word = (self._word + character)[-_MAX_KEPT:]
        if not self._linked and _LINK.search(self._word, max(0, len(self._word) - 12)):
            self._linked = True
        if self._word.endswith("]("):
            self._in_target = True
        elif character == ")":
            self._in_target = False
        if character == ">":
            self._in_tag = False
        elif character.isalpha() and self._word[-2:-1] == "<":
            self._in_tag = True


class StringWatch:
    """String watch: whether the text so far ends within a string of a call's arguments."""

    def __init__(self) -> None:
        self._depth = 0
        self._escaped = False
        self.quote = ""

    def see(self, text: str) -> None:
        """Go on behind this text."""
        for character in text:
            if self._escaped:
                self._escaped = False
            elif self.quote:
                self._within(character)
            elif character in "{[(":
                self._depth += 1
            elif character in "}])":
                self._depth = max(0, self._depth - 1)
            elif character in "\"'" and self._depth:
                self.quote = character

    def _within(self, character: str) -> None:
        if character == "\\":
            self._escaped = True
        elif character == self.quote:
            self.quote = ""
