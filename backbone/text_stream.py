"""Text stream: token bytes as text, in whole characters and without stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence


class TextStream:
    """Text stream: holds back what may be half a character or the start of a stop string."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Take one token's bytes and return the text that is now certain."""
        self._held += self._decoder.decode(piece)
        return self._release(final=False)

    def flush(self) -> str:
        """Return what is still held, at the end of the answer."""
        self._held += self._decoder.decode(b"", True)
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        if self.stopped:
            return ""
        found = [at for at in (self._held.find(text) for text in self._stop) if at >= 0]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)], ""
            return text
        keep = 0 if final else self._half_stop()
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text

    def _half_stop(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = max((len(text) for text in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(text.startswith(self._held[-size:]) for text in self._stop):
                return size
        return 0


def token_texts(tokens: Iterable[tuple[bytes, str]]) -> list[str]:
    """Return by how much a text grew with each of its tokens, given as bytes and as written.

    A character of several tokens is told with the last of them, so that the texts join to the
    whole; control tokens have no bytes and are told as they are written.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [
        decoder.decode(piece) if piece else decoder.decode(b"", True) + name
        for piece, name in tokens
    ]
    if texts:
        texts[-1] += decoder.decode(b"", True)
    return texts
