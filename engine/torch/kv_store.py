"""KV store: where the keys and values of running sequences are, as a scheduler plans with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from engine.torch.kv.blocks import BlockPool, Span
from engine.torch.sequence import FREED
from engine.torch.sequence import Sequence as Tokens


class KVStore(Protocol):
    """KV store of all sequences: paged blocks (PagedStore), or a ring for each (RingStore)."""

    takes_back: bool  # whether a sequence may give way, and have its tokens computed again

    @property
    def usage(self) -> float:
        """The share of it that is held, 0 to 1."""
        ...

    def admit(self, sequence: Tokens, budget: int) -> bool:
        """Hold what is known of a sequence's beginning, if all of its tokens find room now.

        `budget` is how many come in a step at most; sets `num_computed`.
        """
        ...

    def grow(self, sequence: Tokens, count: int) -> int:
        """Make room for the next `count` tokens, or for as many as may come together; 0: none.

        Raises ContextLengthError where there never will be any.
        """
        ...

    def keep(self, sequence: Tokens, start: int, reached: int) -> None:
        """Take in that the tokens from `start` up to `reached` are computed."""
        ...

    def release(self, sequence: Tokens, *, spoilt: bool = False) -> None:
        """Let what a sequence holds be used for others; where `spoilt`, not as what it was."""
        ...

    def fits(self, wanted: Iterable[tuple[Tokens, int]]) -> bool:
        """Whether all could grow by so many tokens at once."""
        ...

    def check_integrity(self, running: Sequence[Tokens]) -> None:
        """Assert that books and tables agree; cheap enough to call whenever nothing runs."""
        ...


class PagedStore:
    """Paged store: sequences hold blocks of a pool, and equal beginnings share theirs."""

    takes_back = True

    def __init__(self, pool: BlockPool, span: Span) -> None:
        """Blocks that `span` does not keep are given back as a sequence grows."""
        self.pool = pool
        self._span = span
        self._block_size = span.block_size

    @property
    def usage(self) -> float:
        """See KVStore."""
        return self.pool.usage

    def admit(self, sequence: Tokens, budget: int) -> bool:
        """See KVStore."""
        found = self._cached_blocks(sequence)
        held = [block for block in found if block != FREED]
        fresh = self._span.most_at_once(len(sequence.tokens), budget) - len(held)
        if self.pool.num_free < fresh + self.pool.num_idle(held):
            return False
        self.pool.hold(held)
        sequence.blocks = found
        sequence.num_computed = sequence.num_cached_tokens = len(found) * self._block_size
        return True

    def grow(self, sequence: Tokens, count: int) -> int:
        """See KVStore: all of them or none."""
        missing = self._missing(sequence, count)
        if missing > self.pool.num_free:
            return 0
        last = sequence.blocks[-1] if sequence.blocks else -2
        sequence.blocks += self.pool.allocate(max(missing, 0), after=last)
        return count

    def keep(self, sequence: Tokens, start: int, reached: int) -> None:
        """See KVStore: full blocks can be found by others from now on."""
        full = reached // self._block_size
        names = sequence.block_names(full, self._block_size)
        for at in range(start // self._block_size, full):
            self.pool.name(sequence.blocks[at], names[at])
        self._free_behind_window(sequence, reached)

    def release(self, sequence: Tokens, *, spoilt: bool = False) -> None:
        """See KVStore."""
        if spoilt:
            self.pool.forget(sequence.held_blocks)
        self.pool.release(sequence.held_blocks)
        sequence.blocks = []

    def fits(self, wanted: Iterable[tuple[Tokens, int]]) -> bool:
        """See KVStore."""
        missing = sum(max(0, self._missing(sequence, count)) for sequence, count in wanted)
        return missing <= self.pool.num_free

    def check_integrity(self, running: Sequence[Tokens]) -> None:
        """See KVStore."""
        self.pool.check_integrity(sequence.held_blocks for sequence in running)

    def _missing(self, sequence: Tokens, count: int) -> int:
        return self._span.num_blocks(sequence.num_computed + count) - len(sequence.blocks)

    def _cached_blocks(self, sequence: Tokens) -> list[int]:
        """Return the table of a sequence's beginning, as far as the cache knows it."""
        # The last token is always computed: its logits are what is asked for. So are those before
        # the first token that is to be scored.
        known = len(sequence.tokens)
        if sequence.wants_scores and sequence.num_scored is not None:
            known = sequence.num_scored
        count = (known - 1) // self._block_size
        found = self.pool.find(sequence.block_names(count, self._block_size))
        for at in self._behind_window(len(found) * self._block_size):
            found[at] = FREED
        return found

    def _free_behind_window(self, sequence: Tokens, reached: int) -> None:
        """Release the blocks that no token from `reached` on will see."""
        for at in reversed(self._behind_window(reached)):
            if sequence.blocks[at] == FREED:
                break  # and so were those before it
            self.pool.release((sequence.blocks[at],))
            sequence.blocks[at] = FREED

    def _behind_window(self, reached: int) -> range:
        return range(self._span.num_sink_blocks, self._span.num_behind(reached))
