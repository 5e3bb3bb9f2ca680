"""Thinking: the thoughts that some models write before their answer, told apart from it."""

from __future__ import annotations

from typing import NamedTuple

from offload.messages import Request

TAGS = {"<think>": "</think>", "[THINK]": "[/THINK]"}  # Qwen, DeepSeek and most; Mistral
_TAIL = 12  # tokens that may hold an opening tag and the space behind it


class Split(NamedTuple):
    """Split of a text into what it adds to the thoughts and to the answer."""

    thought: str
    answer: str


class ThoughtReader:
    """Thought reader of one answer, piece by piece; thoughts begin only with a tag at its start.

    The space around the thoughts belongs to neither part. Each character is read once.
    """

    def __init__(self) -> None:
        self._held = ""
        self._close: str | None = None  # the tag that ends the thoughts
        self._begun = False  # whether the part that is read now has said anything
        self._answering = False

    @property
    def is_thinking(self) -> bool:
        """Whether the thoughts have begun and not ended."""
        return self._close is not None and not self._answering

    def push(self, text: str) -> Split:
        """Take the next piece; return what is now certain."""
        self._held += text
        thought = ""
        if self._close is None and not self._answering:
            self._open()
        if self.is_thinking:
            thought = self._think()
        return Split(thought, self._answer() if self._answering else "")

    def flush(self) -> Split:
        """The answer has ended: return the rest."""
        held, self._held = self._held, ""
        return Split(held.rstrip(), "") if self.is_thinking else Split("", held)

    def _open(self) -> None:
        start = self._held.lstrip()
        for tag, close in TAGS.items():
            if start.startswith(tag):
                self._held, self._close = start[len(tag) :], close
                return
        self._answering = not any(tag.startswith(start) for tag in TAGS)
        self._begun = self._answering  # without thoughts, the answer is left as it is

    def _think(self) -> str:
        assert self._close is not None, "only then it thinks"
        before, close, after = self._held.partition(self._close)
        if close:
            self._held, self._answering = after, True
            thought, begun = before.rstrip(), self._begun
            self._begun = False
            return thought if begun else thought.lstrip()
        if not self._begun:
            self._held = self._held.lstrip()
        free = len(self._held) - _half(self._held, self._close)
        thought = self._held[:free].rstrip()
        self._held = self._held[len(thought) :]
        self._begun = self._begun or bool(thought)
        return thought

    def _answer(self) -> str:
        said = self._held if self._begun else self._held.lstrip()
        self._held, self._begun = "", self._begun or bool(said)
        return said


def split(text: str) -> Split:
    """Return the thoughts and the answer of a whole text."""
    reader = ThoughtReader()
    first, rest = reader.push(text), reader.flush()
    return Split(first.thought + rest.thought, first.answer + rest.answer)


def opened(request: Request, tail: str) -> str:
    """Return the tag that an answer begins behind, where the template has written it already.

    An engine says it before the answer, so that whoever reads it knows thoughts from it. `tail` is
    the end of the prompt as it is written.
    """
    if not request.messages or request.answer_prefix or request.sampling.json_schema is not None:
        return ""
    end = tail.rstrip()
    return next((f"{tag}\n" for tag in TAGS if end.endswith(tag)), "")


def tail_of(tokens: list[int]) -> list[int]:
    """Return the tokens at a prompt's end that may hold such a tag."""
    return tokens[-_TAIL:]


def _half(text: str, close: str) -> int:
    """Return how many of the last characters may begin the closing tag."""
    longest = min(len(text), len(close) - 1)
    return next((n for n in range(longest, 0, -1) if close.startswith(text[-n:])), 0)
