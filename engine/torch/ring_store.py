"""Ring store: each running sequence has a ring of its own, and attention reads them one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.fast_tensor_ops import to_device
from engine.torch.kv.batch import BatchRow, StepBatch
from engine.torch.kv.prompt_selection import OBSERVERS
from engine.torch.kv.ring_cache import Ring
from engine.torch.kv.ring_slots import PromptChunks, RingSlot, RingSlots
from engine.torch.sequence import Sequence as Tokens
from engine.torch.step import Slice
from offload.errors import ContextLengthError


class RingStore:
    """Ring store: a sequence has a slot from its admission to its end; see KVStore.

    A prompt is read in chunks, and what does not fit beside what must stay is left out, so that
    `num_computed` may move on by more than was computed.
    """

    takes_back = False  # what was rounded on the way would come out otherwise

    def __init__(self, slots: RingSlots) -> None:
        self.slots = slots
        self._chunks: dict[Tokens, PromptChunks] = {}
        self._slot_of: dict[Tokens, RingSlot] = {}

    @property
    def usage(self) -> float:
        """See KVStore."""
        return self.slots.usage

    def ring(self, sequence: Tokens) -> Ring:
        """Return the ring of a running sequence."""
        return self._slot_of[sequence].ring

    def watch(self, slice_: Slice) -> None:
        """Let the last tokens of a prompt say what they attend to, where a selection is made."""
        selection = self._slot_of[slice_.sequence].selection
        if selection is not None and not selection.is_done:
            length, end = slice_.sequence.num_prompt_tokens, slice_.start + slice_.num_tokens
            observing = end - max(slice_.start, length - OBSERVERS) if end <= length else 0
            selection.watch(max(0, observing))

    def admit(self, sequence: Tokens, budget: int) -> bool:
        """See KVStore."""
        about = sequence.conversation
        slot = self.slots.take(about.session, sequence.tokens, about.owner)
        if slot is None:
            return False
        self._slot_of[sequence] = slot
        chunks = PromptChunks(slot, sequence.tokens, about.pins, reuse=about.reuse)
        self._chunks[sequence] = chunks
        sequence.num_cached_tokens, sequence.num_computed = chunks.num_shared, chunks.at
        return True

    def grow(self, sequence: Tokens, count: int) -> int:
        """See KVStore: in a prompt up to a chunk's end, in an answer as many as stay plain."""
        if not (chunks := self._chunks[sequence]).done:
            return len(chunks.piece(count))
        slot = self._slot_of[sequence]
        if not slot.make_room(1, sequence.conversation.pins):
            raise ContextLengthError(len(sequence.tokens), slot.ring.limit)
        ring = slot.ring
        return min(count, ring.limit - ring.used, ring.until_settled, ring.chunk)

    def keep(self, sequence: Tokens, start: int, reached: int) -> None:
        """See KVStore."""
        chunks, slot = self._chunks[sequence], self._slot_of[sequence]
        if chunks.done:
            slot.hold(sequence.tokens[start:reached])
        else:
            chunks.took(range(start, reached))
            sequence.num_computed = chunks.at
            if chunks.done and slot.selection is not None:
                slot.selection.select()
        sequence.num_dropped = slot.ring.dropped

    def release(self, sequence: Tokens, *, spoilt: bool = False) -> None:
        """See KVStore: what was read stays for who begins alike."""
        slot = self._slot_of.pop(sequence)
        del self._chunks[sequence]
        if spoilt:
            slot.clear()
        self.slots.give_back(slot)

    def fits(self, wanted: Iterable[tuple[Tokens, int]]) -> bool:
        """See KVStore: nobody makes way for another."""
        return True

    def check_integrity(self, running: Sequence[Tokens]) -> None:
        """See KVStore."""
        assert set(running) == set(self._slot_of), "sequences and slots disagree"
        self.slots.check_integrity(num_taken=len(running))


@dataclass(frozen=True)
class RingBatch(StepBatch):
    """Batch of one step whose rows have a ring each."""

    rings: tuple[Ring, ...] = ()


class RingAttention:
    """Ring attention: each row sees its own ring and nothing of others; see AttentionBackend."""

    def __init__(self, store: RingStore, device: torch.device) -> None:
        self._store = store
        self._device = device
        self._parts: list[tuple[Ring, int]] = []

    def batch(self, slices: Sequence[Slice]) -> RingBatch:
        """Lay the slices' tokens behind one another, all at position 0: rings rotate keys."""
        tokens: list[int] = []
        rows: list[BatchRow] = []
        for slice_ in slices:
            end = slice_.start + slice_.num_tokens
            self._store.watch(slice_)
            rows.append(BatchRow(len(tokens), slice_.num_tokens, end, []))
            tokens += slice_.tokens
        ids = to_device(torch.tensor(tokens), self._device)
        places = torch.zeros_like(ids)
        rings = tuple(self._store.ring(slice_.sequence) for slice_ in slices)
        return RingBatch(ids, places, places, rows, rings=rings)

    def prepare(self, batch: StepBatch) -> None:
        """See AttentionBackend."""
        assert isinstance(batch, RingBatch), "rings are read by a batch of their own"
        self._parts = [
            (ring, row.num_new) for ring, row in zip(batch.rings, batch.rows, strict=True)
        ]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See AttentionBackend; q and k are not rotated yet."""
        if len(self._parts) == 1:
            return self._parts[0][0].attend(layer, q, k, v)
        sizes = [num_new for _, num_new in self._parts]
        shares = zip(self._parts, *(torch.split(each, sizes) for each in (q, k, v)), strict=True)
        return torch.cat([ring.attend(layer, *share) for (ring, _), *share in shares])
