"""How a prompt gets into a slot: in chunks, and each chunk in as many pieces as steps allow."""

from __future__ import annotations

from collections.abc import Sequence

from edge.small_gpu.slot import RingSlot
from engine.window import Pins
from offload.errors import ContextLengthError


class PromptChunks:
    """Where the reading of one prompt stands.

    Old tokens are compressed, and make room, only between chunks. So what a token sees hangs on its
    place alone, however small the pieces are that other answers leave room for.
    """

    def __init__(self, slot: RingSlot, prompt: Sequence[int], pins: Pins, *, reuse: bool) -> None:
        self._slot, self._prompt, self._pins = slot, prompt, pins
        self._spans = slot.begin(prompt, pins, reuse=reuse)
        self.num_shared = self._at = self._chunk_end = len(slot.stream)
        self._skip_to(self._spans[0].start)

    @property
    def done(self) -> bool:
        """Whether all has been read."""
        return not self._spans

    def piece(self, limit: int) -> range:
        """Return which tokens of the prompt to read next, at most `limit` of them.

        Raises ContextLengthError where they do not fit beside what must stay.
        """
        if self._at == self._chunk_end:
            size = min(self._slot.ring.chunk, self._spans[0].stop - self._at)
            if not self._slot.make_room(size, self._pins):
                raise ContextLengthError(self._pins.num_tokens, self._slot.ring.limit)
            self._chunk_end = self._at + size
        return range(self._at, min(self._at + limit, self._chunk_end))

    def took(self, piece: range) -> None:
        """Go on behind a piece that was read."""
        self._at = piece.stop
        tokens = self._prompt[piece.start : piece.stop]
        self._slot.hold(tokens, settle=self._at == self._chunk_end)
        if self._at == self._spans[0].stop:
            del self._spans[0]
            if self._spans:
                self._skip_to(self._spans[0].start)

    def _skip_to(self, at: int) -> None:
        if at > self._at:
            self._slot.skip(self._prompt[self._at : at])
        self._at = self._chunk_end = at
