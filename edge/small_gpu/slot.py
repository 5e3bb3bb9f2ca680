"""A place for one answer at a time: a ring, and the text whose keys and values are in it."""

from __future__ import annotations

from collections.abc import Sequence

from edge.small_gpu.ring_cache import Ring
from engine.window import Pins


class RingSlot:
    """Keeps a ring and the books of its text in step; what a next prompt shares is kept.

    `owner` is for whom the text was read: nobody else's prompt may profit from it.
    """

    def __init__(self, ring: Ring, *, sliding: bool) -> None:
        self.ring = ring
        self.sliding = sliding
        self.stream: list[int] = []  # all that was read or skipped, the dropped tokens too
        self.session: str | None = None
        self.owner: object = None

    def shared(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of the stream, from its start, the prompt begins with."""
        pairs = enumerate(zip(self.stream, prompt, strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(len(self.stream), len(prompt)))

    def begin(self, prompt: Sequence[int], pins: Pins, *, reuse: bool = True) -> list[range]:
        """Keep what a prompt shares with the stream; return which of its tokens to read.

        Where those would not all fit, what lies before the newest of them is left out. The last
        token is always read, since its logits are needed.
        """
        kept = self._keep(self.shared(prompt[:-1]) if reuse else 0)
        if self.ring.dropped and not self._is_good_start(prompt, pins):
            kept = self._keep(0)
        first, resume = self._gap(len(prompt), pins)
        if len(prompt) - max(first, kept) > self.ring.limit - first and resume > first:
            kept = self._keep(min(first, kept))
            return [span for span in (range(kept, first), range(resume, len(prompt))) if span]
        return [range(kept, len(prompt))]

    def hold(self, tokens: Sequence[int], *, settle: bool = True) -> None:
        """Take the first tokens that were attended from into the ring and the stream."""
        self.ring.advance(len(tokens))
        self.stream += tokens
        if settle:
            self.ring.settle()

    def skip(self, tokens: Sequence[int]) -> None:
        """Count tokens that are not read."""
        self.ring.skip(len(tokens))
        self.stream += tokens

    def make_room(self, num_tokens: int, pins: Pins) -> bool:
        """Make room for so many tokens; False where what is there may not go."""
        if self.sliding:
            return self.ring.make_room(num_tokens, pins)
        return self.ring.used + num_tokens <= self.ring.limit

    def clear(self) -> None:
        """Forget all."""
        self.ring.clear()
        self.stream.clear()

    def _keep(self, length: int) -> int:
        kept = self.ring.truncate(length)
        del self.stream[kept:]
        return kept

    def _gap(self, num_prompt: int, pins: Pins) -> tuple[int, int]:
        """Return which tokens to leave out of a prompt that is too long, as [first, resume).

        A quarter stays free where the newest turn allows it.
        """
        if not self.sliding or num_prompt <= self.ring.limit:
            return 0, 0
        limit = self.ring.limit
        first = min(max(self.ring.num_sinks, pins.num_first), pins.last_start)
        fits_from = num_prompt - (limit - first - limit // 4)
        return first, max(first, min(pins.last_start, fits_from))

    def _is_good_start(self, prompt: Sequence[int], pins: Pins) -> bool:
        """Return whether what is held loses nothing that reading anew would keep."""
        ring, length = self.ring, len(self.stream)
        if not ring.holds(0, min(pins.num_first, length)):
            return False
        if not ring.holds(min(pins.last_start, length), length):
            return False
        filled = ring.used + len(prompt) - length
        return len(prompt) > ring.limit and filled > ring.limit // 2
