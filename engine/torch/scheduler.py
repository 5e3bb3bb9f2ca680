"""The scheduler: which sequences compute how many tokens in the next step.

There is no prefill phase and no decode phase (vLLM's V1 scheduler): every step hands out a budget
of tokens, to running answers first, then to prompts in pieces, those of the device that was served
least before all others. A device that has nothing running is let in at once: whoever runs most
makes way for it. Batch work is computed in the steps that no reader needs, and makes way first.
"""

from __future__ import annotations

from collections import Counter

from engine.torch.kv_store import KVStore
from engine.torch.sequence import QueueLane, Sequence
from engine.torch.step import Slice, TokenBudget
from engine.torch.waiting_queue import WaitingQueue
from offload.errors import ContextLengthError
from offload.messages import EngineLoad

# Where more run than this, a step is bound by arithmetic, and drafts cost what they gain.
MAX_DRAFTING = 4


class Scheduler:
    """Scheduler: moves sequences between waiting and running, and plans each step."""

    def __init__(
        self,
        store: KVStore,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        short_first_s: float = 0.0,
        target_step_s: float = 0.0,
        batch_tokens_beside_readers: int = 0,
        mixed_prefill_tokens: int = 0,
        max_drafting: int = MAX_DRAFTING,
    ) -> None:
        """Drafts are made while at most `max_drafting` answers are in a step.

        `mixed_prefill_tokens` are read of prompts in a step in which others write, 0 is no bound.
        `batch_tokens_beside_readers` is what a step may compute of batch work while anybody reads.
        """
        self.store = store
        self.waiting = WaitingQueue(short_first_s=short_first_s)
        self.token_budget = TokenBudget(target_step_s)
        self.running: list[Sequence] = []
        self._max_num_seqs = max_num_seqs
        self._mixed_prefill = mixed_prefill_tokens
        self.max_drafting = max_drafting
        self._refused: list[tuple[Sequence, ContextLengthError]] = []
        self.budget = max_num_batched_tokens  # tokens of one step
        self._batch_beside = batch_tokens_beside_readers
        self.num_preemptions = 0
        self.num_prefix_queries = self.num_prefix_hits = 0  # tokens of prompts, in the prefix cache

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the queue."""
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence, *, spoilt: bool = False) -> None:
        """Forget a sequence that has ended, wherever it is; what it held may be `spoilt`."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.store.release(sequence, spoilt=spoilt)
        self.waiting.forget(sequence)

    def take_refused(self) -> list[tuple[Sequence, ContextLengthError]]:
        """Return the sequences that the last plan found no room for, now or ever, and why."""
        refused, self._refused = self._refused, []
        return refused

    def schedule(self) -> list[Slice]:
        """Return the next step's slices, with room in the cache for all of their tokens.

        Slices of one token come first, as attention backends like them.
        """
        budget = self.token_budget.limit(self.budget)
        preempted_before = self.num_preemptions
        slices: list[Slice] = []
        self._admit_newcomers()
        roomy = self.num_preemptions == preempted_before
        batch_budget = self._batch_beside if self._has_readers() else budget
        for sequence in self._by_priority():
            if sequence.num_pending > 1:
                budget = self._beside(slices, budget)
            limit = min(budget, batch_budget) if sequence.lane.is_batch else budget
            count = 0 if sequence.is_all_chosen else min(sequence.num_pending, limit)
            if sequence in self.running and count:
                count = self._make_room(sequence, count, slices)
                if count:
                    slices.append(self._slice_of(sequence, count))
                budget -= count
                batch_budget -= count * sequence.lane.is_batch
        # Where room had to be made, newcomers would only throw each other out.
        roomy = roomy and self.num_preemptions == preempted_before
        budget = self._beside(slices, budget)
        while roomy and budget > 0 and (admitted := self.waiting.next()) is not None:
            if admitted.lane.is_batch and self._has_readers():
                batch_budget = min(batch_budget, self._batch_beside)
            limit = min(budget, batch_budget) if admitted.lane.is_batch else budget
            if limit <= 0 or self._admit(admitted) is None:
                break
            count = self._grow(admitted, min(admitted.num_pending, limit))
            if count:
                slices.append(self._slice_of(admitted, count))
            budget -= count
            batch_budget -= count * admitted.lane.is_batch
        few = len(slices) <= self.max_drafting
        slices = [
            self._with_draft(slice_, budget // len(slices))
            if few or slice_.sequence.sampler.forced
            else slice_
            for slice_ in slices
        ]
        slices.sort(key=lambda slice_: slice_.num_tokens > 1)
        return slices

    def mark_computed(self, slice_: Slice, num_rejected: int = 0) -> None:
        """Count a slice as computed, and let its full blocks be found by others.

        The last `num_rejected` tokens of its draft proved wrong.
        """
        sequence = slice_.sequence
        reached = min(slice_.start + slice_.num_tokens - num_rejected, len(sequence.tokens))
        sequence.num_computed = max(sequence.num_computed, reached)
        self.store.keep(sequence, slice_.start, reached)

    def mark_launched(self, slice_: Slice) -> None:
        """Plan on from behind a slice whose outcome is not known yet."""
        slice_.sequence.num_computed = slice_.start + slice_.num_tokens
        if slice_.completes:
            slice_.sequence.append_placeholder()

    def has_room(self) -> bool:
        """Whether the next step needs nobody to give way, whatever it plans."""
        wanted = ((each, min(each.num_pending, self.budget)) for each in self.running)
        return self.store.fits(wanted) and not self._needs_preemption()

    def shrink(self, num_tokens: int) -> bool:
        """Plan for half the tokens of a step that ran out of memory; False below one token."""
        self.budget = max(1, num_tokens // 2)
        return num_tokens > 1

    def preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to the head of the queue; it will be computed again."""
        self._stop(sequence)
        self.waiting.put_first(sequence)

    def _stop(self, sequence: Sequence) -> None:
        assert not sequence.num_placeholders, "who gives way has no token under way"
        self.running.remove(sequence)
        self.store.release(sequence)
        sequence.num_computed = 0
        sequence.num_preemptions += 1
        self.num_preemptions += 1

    def expired(self, now_s: float) -> list[Sequence]:
        """Return the sequences whose deadline has passed."""
        return [s for s in (*self.running, *self.waiting) if now_s >= s.deadline_s]

    def report(self) -> EngineLoad:
        """Return how busy it is; may be called from any thread."""
        num_batch = sum(sequence.lane.is_batch for sequence in tuple(self.running))
        return EngineLoad(
            num_running=len(self.running) - num_batch,
            num_waiting=len(self.waiting) - self.waiting.num_batch,
            num_batch=num_batch + self.waiting.num_batch,
            kv_cache_usage=self.store.usage,
            prefix_cache_queries=self.num_prefix_queries,
            prefix_cache_hits=self.num_prefix_hits,
            num_preemptions=self.num_preemptions,
        )

    def check_integrity(self) -> None:
        """Assert that queues and store agree; cheap enough to call whenever nothing runs."""
        everyone = [*self.running, *self.waiting]
        assert len(set(map(id, everyone))) == len(everyone), "a sequence is queued twice"
        assert not any(sequence.blocks for sequence in self.waiting), "a waiting one holds blocks"
        self.store.check_integrity(self.running)

    def _by_priority(self) -> list[Sequence]:
        """Return answers before prompts, so that a long prompt never holds up a reader.

        Among prompts that of the lane for which least was done is first. Batch work comes last.
        """

        def turn(sequence: Sequence) -> tuple[bool, bool, tuple[int, int], int]:
            reads = sequence.num_pending > 1
            priority = self.waiting.priority(sequence) if reads else (0, 0)
            return sequence.lane.is_batch, reads, priority, sequence.number

        return sorted(self.running, key=turn)

    def _admit_newcomers(self) -> None:
        """Start one sequence of every device that has none running; who runs most makes way.

        For a device that has some running only batch work makes way.
        """
        while (newcomer := self._newcomer()) is not None:
            while self._admit(newcomer) is None:
                is_first = not self._running_of()[newcomer.lane]
                victim = self._victim(of_readers=is_first)
                if victim is None:
                    return
                self._stop(victim)
                self.waiting.put_first_of_lane(victim)

    def _newcomer(self) -> Sequence | None:
        """Return which waiting sequence somebody makes way for."""
        running = self._running_of()
        if (newcomer := self.waiting.newcomer(running)) is not None:
            return newcomer
        reader = self.waiting.next() if any(lane.is_batch for lane in running) else None
        return None if reader is None or reader.lane.is_batch else reader

    def _has_readers(self) -> bool:
        return any(not sequence.lane.is_batch for sequence in self.running)

    def _running_of(self) -> Counter[QueueLane]:
        return Counter(sequence.lane for sequence in self.running)

    def _victim(self, *, of_readers: bool) -> Sequence | None:
        """Return who makes way: the youngest of batch work, or of the lane that runs most.

        None where every lane of readers has one, or they are not asked.
        """
        if not self.store.takes_back:
            return None
        counts = self._running_of()
        free = [
            each
            for each in self.running
            if not each.num_placeholders
            and (each.lane.is_batch or (of_readers and counts[each.lane] > 1))
        ]
        return max(free, key=lambda s: self._gives_way(s, counts), default=None)

    def _gives_way(self, sequence: Sequence, counts: Counter[QueueLane]) -> tuple[bool, int, int]:
        return sequence.lane.is_batch, counts[sequence.lane], sequence.number

    def _needs_preemption(self) -> bool:
        """Whether a waiting reader can be let in only if another makes way."""
        counts = self._running_of()
        if not counts or self._newcomer() is None:
            return False
        crowded = len(self.running) >= self._max_num_seqs or self.store.usage >= 1
        return crowded and (max(counts.values()) > 1 or any(lane.is_batch for lane in counts))

    def _admit(self, sequence: Sequence | None = None) -> Sequence | None:
        """Start a waiting sequence if what its known tokens hold at once finds room now.

        It is the one whose turn it is, unless one is given.
        """
        sequence = sequence or self.waiting.next()
        if sequence is None or len(self.running) >= self._max_num_seqs:
            return None
        if not self.store.admit(sequence, self.budget):
            return None
        self.waiting.take(sequence)
        if not sequence.num_preemptions:
            self.num_prefix_queries += sequence.num_prompt_tokens
            self.num_prefix_hits += sequence.num_cached_tokens
            sequence.num_prompt_cached = sequence.num_cached_tokens
        self.running.append(sequence)
        return sequence

    def _with_draft(self, slice_: Slice, limit: int) -> Slice:
        """Add what comes next to a slice that ends with a choice, where there is room anyway."""
        sequence = slice_.sequence
        if slice_.num_tokens > 1 or not slice_.completes:
            return slice_
        # The last token of an answer needs none behind it.
        limit = min(limit, sequence.max_tokens - sequence.num_generated - 1)
        draft = sequence.draft(max(0, limit))
        count = self._grow(sequence, 1 + len(draft)) if draft else 0
        return Slice(sequence, count, draft[: count - 1]) if count else slice_

    def _beside(self, slices: list[Slice], budget: int) -> int:
        """Return how many tokens of prompts may be read beside those that are planned already."""
        writes = any(slice_.completes and slice_.num_tokens == 1 for slice_ in slices)
        return min(budget, self._mixed_prefill) if self._mixed_prefill and writes else budget

    def _slice_of(self, sequence: Sequence, count: int) -> Slice:
        """Return the next `count` tokens as a slice, and count them as work for its lane."""
        left = max(0, sequence.num_prompt_tokens - sequence.num_computed)
        num_read = min(left, count)
        self.waiting.charge(sequence, num_read, count - num_read)
        return Slice(sequence, count)

    def _make_room(self, sequence: Sequence, count: int, slices: list[Slice]) -> int:
        """Grow a sequence; batch work gives way, then whoever runs most, the youngest first.

        None that is in this step already does. Return for how many tokens there is room.
        """
        while not (grown := self._grow(sequence, count)) and sequence in self.running:
            planned = {id(slice_.sequence) for slice_ in slices}
            others = [s for s in self.running if id(s) not in planned]
            counts = self._running_of()
            youngest = max(others, key=lambda s: self._gives_way(s, counts))
            self.preempt(youngest)
            if youngest is sequence:
                break
        return grown

    def _grow(self, sequence: Sequence, count: int) -> int:
        """Make room for `count` more tokens, or fewer; one that never will have any is refused."""
        try:
            return self.store.grow(sequence, count)
        except ContextLengthError as error:
            self.running.remove(sequence)
            self.store.release(sequence)
            self._refused.append((sequence, error))
            return 0
