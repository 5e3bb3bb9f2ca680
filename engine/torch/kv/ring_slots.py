"""Slots of the torch runtime: a ring each, who gets which, and their conversations on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from backbone.process_limits import is_out_of_memory
from engine.sessions import Header, Saved, SessionStore
from engine.torch.kv.block_store import BlockStore
from engine.torch.kv.prompt_selection import PromptSelection
from engine.torch.kv.ring_cache import Ring
from engine.window import Pins, common_prefix
from offload.errors import ContextLengthError

_log = logging.getLogger("nearfar.small_gpu")

SAVED_TOKENS = 32  # a shorter conversation is read again as quickly as it is loaded


class RingSlot:
    """Ring slot: keeps a ring and the books of its text in step; a shared prefix is kept.

    `owner` is for whom the text was read: nobody else's prompt may profit from it.
    """

    def __init__(self, ring: Ring, *, sliding: bool, keep: int = 0) -> None:
        """`keep` is how many stored tokens of a prompt stay behind its end; 0 is all."""
        self.ring = ring
        self.sliding = sliding
        self.selection = PromptSelection(ring, keep) if keep else None
        self.stream: list[int] = []  # all that was read or skipped, the dropped tokens too
        self.session: str | None = None
        self.owner: object = None

    def shared(self, prompt: Sequence[int]) -> int:
        """Return how many tokens of the stream, from its start, the prompt begins with."""
        return common_prefix(self.stream, prompt)

    def begin(self, prompt: Sequence[int], pins: Pins, *, reuse: bool = True) -> list[range]:
        """Keep what a prompt shares with the stream; return which of its tokens to read.

        Where those would not all fit, what lies before the newest of them is left out. The last
        token is always read, since its logits are needed.
        """
        # What was selected for the end of one prompt does not serve another.
        is_whole = self.selection is None or not self.selection.is_done
        kept = self._keep(self.shared(prompt[:-1]) if reuse and is_whole else 0)
        if self.selection is not None:
            self.selection.clear()
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
        if self.selection is not None:
            self.selection.clear()

    def copy(self, other: RingSlot) -> None:
        """Hold what another slot of the same engine holds."""
        self.clear()
        ring, source = self.ring, other.ring
        ring.plain[:, :, : len(source.plain_at)] = source.plain[:, :, : len(source.plain_at)]
        places = [block.place for block in source.blocks]
        for mine, theirs in ((ring.keys, source.keys), (ring.values, source.values)):
            mine.restore(theirs.kept(places))
        at = [block.at for block in source.blocks]
        ring.restore(source.num_read, list(source.plain_at), at)
        ring.settle()  # the other may be in the middle of a chunk
        self.stream = list(other.stream)

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


class PromptChunks:
    """Prompt chunks: how far the prefill of one prompt has come.

    Old tokens are compressed, and make room, only between chunks. So what a token sees hangs on its
    place alone, however small the pieces are that other answers leave room for.
    """

    def __init__(self, slot: RingSlot, prompt: Sequence[int], pins: Pins, *, reuse: bool) -> None:
        self._slot, self._prompt, self._pins = slot, prompt, pins
        self._spans = slot.begin(prompt, pins, reuse=reuse)
        self.num_shared = self.at = self._chunk_end = len(slot.stream)  # `at`: the next token
        self._skip_to(self._spans[0].start)

    @property
    def done(self) -> bool:
        """Whether the whole prompt has been read."""
        return not self._spans

    def piece(self, limit: int) -> range:
        """Return which tokens of the prompt to read next, at most `limit` of them.

        Raises ContextLengthError where they do not fit beside what must stay.
        """
        if self.at == self._chunk_end:
            size = min(self._slot.ring.chunk, self._spans[0].stop - self.at)
            if not self._slot.make_room(size, self._pins):
                raise ContextLengthError(self._pins.num_tokens, self._slot.ring.limit)
            self._chunk_end = self.at + size
        return range(self.at, min(self.at + limit, self._chunk_end))

    def took(self, piece: range) -> None:
        """Go on behind a piece that was read."""
        self.at = piece.stop
        tokens = self._prompt[piece.start : piece.stop]
        self._slot.hold(tokens, settle=self.at == self._chunk_end)
        if self.at == self._spans[0].stop:
            del self._spans[0]
            if self._spans:
                self._skip_to(self._spans[0].start)

    def _skip_to(self, at: int) -> None:
        if at > self.at:
            self._slot.skip(self._prompt[self.at : at])
        self.at = self._chunk_end = at


def saved(slot: RingSlot, model: str) -> Saved:
    """Return what a slot holds, for a SessionStore."""
    ring = slot.ring
    places = [block.place for block in ring.blocks]
    tensors = {
        "plain": ring.plain[:, :, : len(ring.plain_at)],
        "plain_at": torch.tensor(ring.plain_at, dtype=torch.int64),
        "blocks_at": torch.tensor([block.at for block in ring.blocks], dtype=torch.int64),
    }
    tensors |= _stored(ring, places)
    state = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    kept = _spans(sorted([*ring.plain_at, *(at for block in ring.blocks for at in block.at)]))
    return Saved(header=Header(model=model, stream=list(slot.stream), kept=kept), state=state)


def restore(slot: RingSlot, found: Saved) -> bool:
    """Let a slot hold what was saved instead; False, and empty, where it does not suit."""
    slot.clear()
    try:
        tensors = load(found.state)
        suits = _suits(slot.ring, tensors, len(found.header.stream))
    except (SafetensorError, KeyError, ValueError):
        return False
    if suits:
        _copy(slot.ring, tensors, len(found.header.stream))
        slot.stream = list(found.header.stream)
    return suits


def _copy(ring: Ring, tensors: dict[str, Tensor], num_read: int) -> None:
    plain, blocks_at = tensors["plain"], tensors["blocks_at"].tolist()
    ring.plain[:, :, : plain.shape[2]] = plain.to(ring.device)
    for side, store in _stores(ring).items():
        store.restore({name: tensors[f"{side}.{name}"] for name in store.parts})
    ring.restore(num_read, tensors["plain_at"].tolist(), [tuple(at) for at in blocks_at])


def _suits(ring: Ring, tensors: dict[str, Tensor], num_read: int) -> bool:
    """Return whether the tensors are of a ring like this one, and their books make sense."""
    plain, blocks_at = tensors["plain"], tensors["blocks_at"].tolist()
    plain_at = tensors["plain_at"].tolist()
    settled = len(plain_at) < ring.num_sinks + ring.residual + ring.block
    like = [(plain, ring.plain[:, :, : len(plain_at)])]
    like += [(tensors[name], part) for name, part in _stored(ring, slice(len(blocks_at))).items()]
    if not settled or any(a.shape != b.shape or a.dtype != b.dtype for a, b in like):
        return False
    held = [*plain_at[: ring.num_sinks], *(at for block in blocks_at for at in block)]
    held += plain_at[ring.num_sinks :]
    in_order = held[:1] == [0] and all(a < b for a, b in pairwise(held))
    whole = all(len(block) == ring.block for block in blocks_at)
    return in_order and whole and held[-1] < num_read and len(held) <= ring.limit


def _stores(ring: Ring) -> dict[str, BlockStore]:
    return {"keys": ring.keys, "values": ring.values}


def _stored(ring: Ring, places: list[int] | slice) -> dict[str, Tensor]:
    return {
        f"{side}.{name}": part
        for side, store in _stores(ring).items()
        for name, part in store.kept(places).items()
    }


def _spans(held: list[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for at in held:
        if spans and spans[-1][1] == at:
            spans[-1] = (spans[-1][0], at + 1)
        else:
            spans.append((at, at + 1))
    return spans


class RingSlots:
    """Ring slots: one, and up to `count` where more are needed; they live in the engine's thread.

    Without a store, or for requests without a session, nothing goes to disk.
    """

    def __init__(
        self, make: Callable[[], RingSlot], count: int, store: SessionStore | None
    ) -> None:
        self._make = make
        self._count = count
        self.store = store
        self.free = [make()]  # the one used last is the last
        self._taken: list[RingSlot] = []
        self._forgotten: set[str] = set()  # conversations to be forgotten when their answer ends

    def take(
        self, session: str | None, prompt: Sequence[int], owner: object = None
    ) -> RingSlot | None:
        """Return the slot that holds most of a prompt, None while all are taken."""

        def match(slot: RingSlot) -> tuple[bool, int, bool]:
            own = session is not None and slot.session == session
            shared = slot.shared(prompt) if slot.owner == owner else 0
            # Among slots with nothing to share, an empty one costs nobody their text.
            return own, shared, not slot.stream

        if not any(any(match(slot)) for slot in self.free):
            self._add()
        if not self.free:
            return None
        slot = max(self.free, key=match)
        self.free.remove(slot)
        self._taken.append(slot)
        self._enter(slot, session, prompt, owner)
        return slot

    def give_back(self, slot: RingSlot) -> None:
        """Let others have a slot; what was read stays there."""
        slot.ring.settle()  # it may have been left in the middle of a chunk
        self._taken.remove(slot)
        self.free.append(slot)
        if slot.session in self._forgotten and slot.session is not None:
            self._forget_in(slot)

    def forget(self, session: str) -> None:
        """Forget a conversation, on disk too; one that is being answered, when that ends."""
        if self.store is not None:
            self.store.forget(session)
        for slot in self.free:
            if slot.session == session:
                self._forget_in(slot)
        if any(slot.session == session for slot in self._taken):
            self._forgotten.add(session)

    def leave_all(self) -> None:
        """Keep every conversation that has a name."""
        for slot in self.free:
            self._leave(slot)

    @property
    def usage(self) -> float:
        """The share of the slots that there may be which are taken, 0 to 1."""
        return len(self._taken) / self._count

    def check_integrity(self, num_taken: int = 0) -> None:
        """Assert that every other slot is free, and that the books of those are in order."""
        assert len(self._taken) == num_taken, "a slot was not given back"
        for slot in self.free:
            assert slot.ring.num_read == len(slot.stream), "ring and stream disagree"
            assert slot.ring.used <= slot.ring.limit, "a ring holds more than it may"

    def _add(self) -> None:
        """Make another slot, as long as there may be more and the memory holds it."""
        num_slots = len(self.free) + len(self._taken)
        if num_slots >= self._count:
            return
        try:
            self.free.insert(0, self._make())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._count = num_slots
            _log.warning("no memory for more than %d answers at once", num_slots)

    def _enter(
        self, slot: RingSlot, session: str | None, prompt: Sequence[int], owner: object
    ) -> None:
        """Make a slot hold as much of a prompt's conversation as there is."""
        if slot.session != session:
            self._leave(slot)
            slot.session = session
        if slot.owner != owner:
            slot.clear()
            slot.owner = owner
        self._copy_beginning(slot, prompt)
        if session is None or self.store is None:
            return
        here = slot.shared(prompt)
        if here >= len(prompt) - 1:
            return
        found = self.store.load(session)
        if found is not None and common_prefix(found.header.stream, prompt) > here:
            restore(slot, found)

    def _copy_beginning(self, slot: RingSlot, prompt: Sequence[int]) -> None:
        """Take over what an answer under way of the same owner has read of the same beginning."""
        others = [
            each
            for each in self._taken
            if each is not slot and each.owner == slot.owner and not each.ring.dropped
        ]
        best = max(others, key=lambda each: each.shared(prompt), default=None)
        if best is not None and best.shared(prompt) >= slot.shared(prompt) + SAVED_TOKENS:
            slot.copy(best)

    def _leave(self, slot: RingSlot) -> None:
        session, slot.session = slot.session, None
        is_whole = slot.selection is None or not slot.selection.is_done
        if session is None or self.store is None or not is_whole:
            return
        if slot.ring.used >= SAVED_TOKENS:
            self.store.save(session, saved(slot, self.store.model))

    def _forget_in(self, slot: RingSlot) -> None:
        self._forgotten.discard(str(slot.session))
        slot.session = None
        slot.clear()
