"""The pool of KV blocks: reference counts, and full blocks found again by their content.

A block is named by the hash of its own tokens and of all before it (vLLM's prefix caching), so
equal prefixes share storage. A block that nobody uses keeps its content until it is needed for
something else, the longest unused first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ROOT = b"nearfar"


def chain_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Return the name of a full block after `parent`; sha256, so that no one can forge one."""
    return hashlib.sha256(parent + array("q", tokens).tobytes()).digest()


def salted(root: bytes, salt: str) -> bytes:
    """Return where the chains of one tenant begin, so that none finds a block of another's."""
    return hashlib.sha256(root + salt.encode("utf-8", "surrogatepass")).digest() if salt else root


@dataclass(frozen=True, kw_only=True)
class Span:
    """Span of the tokens that a sequence keeps in the cache: all, or a window and the sinks."""

    block_size: int
    window: int | None = None  # of the layer that sees farthest; None where one sees everything
    num_sinks: int = 0

    def num_blocks(self, num_tokens: int) -> int:
        """Return the blocks that so many neighbouring tokens fill, from a block's beginning on."""
        return -(-num_tokens // self.block_size)

    @property
    def num_sink_blocks(self) -> int:
        """Blocks at the beginning that are never given back."""
        return self.num_blocks(self.num_sinks)

    def num_behind(self, reached: int) -> int:
        """Return how many blocks from the beginning no token from `reached` on sees, sinks apart.

        The next token sees itself and window - 1 before it.
        """
        if self.window is None:
            return 0
        return max(0, reached - self.window + 1) // self.block_size

    def most_at_once(self, num_tokens: int, step: int) -> int:
        """Return the most blocks held while tokens are read, at most `step` of them at a time."""
        whole = self.num_blocks(num_tokens)
        if self.window is None:
            return whole
        # Before a step the window but for its newest token is held, from anywhere in a block on.
        seen = self.num_blocks(self.window - 1 + step + self.block_size - 1)
        return min(whole, self.num_sink_blocks + seen)


class BlockPool:
    """Pool of blocks 0 .. num_blocks - 1, with a reference count each."""

    def __init__(self, num_blocks: int, *, enable_prefix_caching: bool = True) -> None:
        self.num_blocks = num_blocks
        self._caching = enable_prefix_caching
        self._holders = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._name_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds; some of them still carry a prefix."""
        return len(self._free)

    @property
    def usage(self) -> float:
        """The share of the blocks that somebody holds, 0 to 1."""
        return 1.0 - len(self._free) / self.num_blocks

    def find(self, names: Iterable[bytes]) -> list[int]:
        """Return the blocks that carry the longest known beginning of a chain of names."""
        found: list[int] = []
        for name in names:
            block = self._block_of.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def num_idle(self, blocks: Iterable[int]) -> int:
        """Return how many of the blocks are free, so that holding them takes from the pool."""
        return sum(self._holders[block] == 0 for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Count one more holder of each block."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def allocate(self, count: int, *, after: int = -2) -> list[int]:
        """Return `count` blocks with fresh storage, one holder each; the caller checked num_free.

        They follow the block `after` where they can: neighbours are read without a copy.
        """
        assert count <= len(self._free), "allocate() beyond num_free"
        taken: list[int] = []
        for _ in range(count):
            after = self._next_free(after + 1)
            self._forget(after)
            self.hold((after,))
            taken.append(after)
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Count one holder less of each; the tail of a sequence is the first to be reused."""
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} was released twice"
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free[block] = None
                if block not in self._name_of:
                    self._free.move_to_end(block, last=False)

    def name(self, block: int, name: bytes) -> None:
        """Let a full, computed block be found by its content; the first of equals is kept."""
        if self._caching and name not in self._block_of and block not in self._name_of:
            self._name_of[block] = name
            self._block_of[name] = block

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert that counts agree with the tables of all holders, and that nothing leaks."""
        held = Counter(block for table in tables for block in table)
        for block, count in enumerate(self._holders):
            assert held[block] == count, f"block {block}: {count} holders, {held[block]} in tables"
            assert (count == 0) == (block in self._free), f"block {block} is free and held"
        assert len(self._free) + len(held) == self.num_blocks, "free + used is not the total"
        backward = {block: name for name, block in self._block_of.items()}
        assert backward == self._name_of, "names and blocks disagree"

    def _next_free(self, wanted: int) -> int:
        if wanted in self._free and wanted not in self._name_of:
            return wanted
        return next(iter(self._free))

    def forget(self, blocks: Iterable[int]) -> None:
        """Let the content of blocks be found no more."""
        for block in blocks:
            self._forget(block)

    def _forget(self, block: int) -> None:
        name = self._name_of.pop(block, None)
        if name is not None:
            del self._block_of[name]
