"""Context window: which tokens of an endless conversation are kept: sinks, pins and the newest.

The first tokens (attention sinks) and the newest ones stay; between them, blocks are forgotten
when the context is full. Source: Xiao et al., "Efficient Streaming Language Models with
Attention Sinks", arXiv 2309.17453. This module only keeps the books; a runtime's KV
cache moves the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Return with how many equal tokens both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


@dataclass(frozen=True, kw_only=True)
class Pins:
    """Pinned tokens of a prompt: the first `num_first`, and `last_start` to `last_end`.

    The first are the system prompt, the last the user's newest turn.
    """

    num_first: int
    last_start: int
    last_end: int

    @classmethod
    def whole(cls, num_tokens: int) -> Pins:
        """Pin all of a prompt."""
        return cls(num_first=0, last_start=0, last_end=num_tokens)

    def within(self, num_tokens: int) -> Pins:
        """Return the pins of a prompt that was shortened at its end."""
        first, start, end = self.num_first, self.last_start, self.last_end
        first, start, end = (min(place, num_tokens) for place in (first, start, end))
        return Pins(num_first=first, last_start=start, last_end=end)

    @property
    def num_tokens(self) -> int:
        """Return how many tokens are pinned."""
        return self.num_first + self.last_end - max(self.num_first, self.last_start)


class Window:
    """Window: the tokens read so far, and which of them the context holds, in order.

    `stream` is everything; `kept` are ranges of it. A token's position in the context is its
    rank among the kept ones.
    """

    def __init__(self, capacity: int, *, num_sinks: int = 4, block: int = 64) -> None:
        assert capacity > num_sinks, "a context must hold more than its sinks"
        self.capacity = capacity
        self.num_sinks = num_sinks
        # Small contexts forget in small blocks, or each eviction would empty them.
        self.block = max(1, min(block, capacity // 8))
        self.stream: list[int] = []
        self.kept: list[tuple[int, int]] = []

    @property
    def used(self) -> int:
        """Return how many tokens the context holds."""
        return sum(end - start for start, end in self.kept)

    @property
    def free(self) -> int:
        """Return how many more tokens fit."""
        return self.capacity - self.used

    @property
    def dropped(self) -> int:
        """Return how many tokens were read, or skipped, and are not in the context."""
        return len(self.stream) - self.used

    def shared(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of the stream, from its start, the prompt begins with."""
        return common_prefix(self.stream, prompt)

    def append(self, tokens: Sequence[int]) -> None:
        """Add tokens that the context now holds."""
        start = len(self.stream)
        self.stream += tokens
        assert len(tokens) <= self.free, "the context would overflow"
        if self.kept and self.kept[-1][1] == start:
            start = self.kept.pop()[0]
        self.kept.append((start, len(self.stream)))

    def skip(self, tokens: Sequence[int]) -> None:
        """Add tokens that the context never gets."""
        self.stream += tokens

    def truncate(self, length: int) -> int:
        """Shorten the stream; return how many tokens of the context remain."""
        del self.stream[length:]
        self.kept = [(start, min(end, length)) for start, end in self.kept if start < length]
        return self.used

    def clear(self) -> None:
        """Forget everything."""
        self.truncate(0)

    def holds(self, start: int, end: int) -> bool:
        """Return whether the context has all of a range of the stream (empty ranges: yes)."""
        return start >= end or any(a <= start and end <= b for a, b in self.kept)

    def evict(self, pins: Pins) -> tuple[int, int] | None:
        """Forget the oldest block that may go; return its position and length in the context.

        First goes what lies between the pins, then the oldest of what follows them, down to
        the newest block. None when nothing may go.
        """
        first = max(self.num_sinks, pins.num_first)
        newest = max(pins.last_end, len(self.stream) - self.block)
        for low, high in ((first, pins.last_start), (max(first, pins.last_end), newest)):
            position = 0
            for index, (start, end) in enumerate(self.kept):
                cut_from, cut_to = max(start, low), min(end, high)
                if cut_from < cut_to:
                    cut_to = min(cut_to, cut_from + self.block)
                    pieces = ((start, cut_from), (cut_to, end))
                    self.kept[index : index + 1] = [p for p in pieces if p[0] < p[1]]
                    return position + cut_from - start, cut_to - cut_from
                position += end - start
        return None

    def resume_at(self, num_prompt: int, pins: Pins, *, room: int) -> int:
        """Return from which token on to read a prompt that is longer than the context.

        Tokens from `pins.num_first` (or the sinks) up to there are skipped, so that `room`
        tokens stay free where the newest turn allows it.
        """
        first = min(max(self.num_sinks, pins.num_first), pins.last_start)
        fits_from = num_prompt - (self.capacity - first - room)
        return max(first, min(pins.last_start, fits_from))
