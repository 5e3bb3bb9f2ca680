"""Lanes: several answers in one context, whose steps run as one batch.

A step of four sequences takes little longer than a step of one, since the weights are read
once. Each answer runs in its own thread, as if it were alone; decode() waits for those that were
in the step before, and one of the threads evaluates everybody's tokens. Long prompts come in small
pieces, so that they do not hold up those who write. Sequences whose numbers follow one another
share a step, others take one each run of them: those that go on writing are moved side by side.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from backbone.errors import NearfarError
from edge.device.governor import ThreadTuner
from edge.llama.context import BatchPart, Context

# How long a step waits for an answer that was in the one before: one left behind costs nearly a
# step more, and whose reader pauses is waited for once.
STRAGGLER_S, STRAGGLER_SHARE = 0.01, 0.5  # of the last step's time, where that is longer
PIECE = 64  # prompt tokens in one step while others write
# A gap is closed when it has cost as many steps: what is moved takes about as long as one of them.
PATIENCE = 4
MOST_MOVED = 256 << 20  # bytes; of more, the copies themselves would be felt


class _Ticket:
    """Ticket of a part in a step; `rows` are its logits, [rows, vocabulary].

    `hidden` are its hidden states, [rows, hidden_size], where the part asks for them.
    """

    def __init__(self, lane: Lane, part: BatchPart) -> None:
        self.lane = lane
        self.part = part
        self.rows: npt.NDArray[np.float32] | None = None
        self.hidden: npt.NDArray[np.float32] | None = None
        self.error: NearfarError | None = None
        self.done = False


class SharedContext:
    """Shared context: runs the steps of all lanes; every use of the context goes through here."""

    def __init__(self, context: Context, tuner: ThreadTuner) -> None:
        self.context = context
        self._tuner = tuner
        self._cond = threading.Condition()
        self._pending: list[_Ticket] = []
        self._running = False
        self._due: set[Lane] = set()  # of the last step, which may come with another token
        self._until = 0.0  # when they are waited for no longer
        self._writing: set[Lane] = set()
        self._lanes: dict[int, Lane] = {}  # by the number of its sequence
        self._split = 0  # steps in a row that a gap has cost

    def add(self, lane: Lane) -> None:
        """Take in a lane, before any of them is used."""
        self._lanes[lane.seq] = lane

    @property
    def num_active(self) -> int:
        """Return how many answers are being written."""
        return len(self._writing)

    @contextmanager
    def writing(self, lane: Lane) -> Iterator[None]:
        """Count an answer among those that a step waits for, until it ends."""
        with self._cond:
            self._writing.add(lane)
        try:
            yield
        finally:
            with self._cond:
                self._writing.discard(lane)
                self._due.discard(lane)
                self._cond.notify_all()

    @contextmanager
    def idle(self) -> Iterator[Context]:
        """Lend the context while no step runs."""
        with self._cond:
            self._cond.wait_for(lambda: not self._running)
            yield self.context

    def decode(self, lane: Lane, part: BatchPart) -> _Ticket:
        """Evaluate a part together with those of others; return the ticket with its logits.

        Raises NearfarError where llama.cpp fails; all parts of that step fail then.
        """
        ticket = _Ticket(lane, part)
        with self._cond:
            self._pending.append(ticket)
            self._due.discard(lane)
            if not self._due:
                self._cond.notify_all()
            while not ticket.done:
                left = self._until - time.monotonic()
                if self._running:
                    self._cond.wait()
                elif self._due and left > 0:
                    self._cond.wait(left)
                else:
                    self._step(self._take())
        if ticket.error is not None:
            raise ticket.error
        assert ticket.rows is not None, "a step ends with logits or an error"
        return ticket

    def _take(self) -> list[_Ticket]:
        """Return the oldest tickets that fit into one batch, and leave the others."""
        taken: list[_Ticket] = []
        tokens = rows = 0
        for ticket in self._pending:
            tokens += len(ticket.part.tokens)
            rows += ticket.part.num_rows
            if tokens > self.context.batch_size or rows > self.context.num_outputs:
                break
            if not _go_together([*(each.part for each in taken), ticket.part]):
                break
            taken.append(ticket)
        del self._pending[: len(taken)]
        return taken

    def _step(self, tickets: list[_Ticket]) -> None:
        """Run one batch; called with the lock, which is free while llama.cpp computes."""
        self._running = True
        self._cond.release()
        started = time.monotonic()
        try:
            self._evaluate(tickets)
        except NearfarError as error:
            for ticket in tickets:
                ticket.error = error
        finally:
            self._cond.acquire()
            self._running = False
            now = time.monotonic()
            self._until = now + max(STRAGGLER_S, STRAGGLER_SHARE * (now - started))
            self._due = {ticket.lane for ticket in tickets}
            for ticket in tickets:
                ticket.done = True
            self._cond.notify_all()

    def _evaluate(self, tickets: list[_Ticket]) -> None:
        plain = all(len(ticket.part.tokens) == 1 for ticket in tickets)
        if plain:
            self._close_gaps([ticket.lane for ticket in tickets])
        else:
            self._tuner.before_prompt()
        for ticket in tickets:
            ticket.part.seq = ticket.lane.seq  # which another step may have changed
        with self._tuner.step(plain=plain, num_answers=len(tickets)):
            self.context.decode_parts([ticket.part for ticket in tickets])
        for ticket in tickets:
            first = ticket.part.first_row
            rows = range(first, first + ticket.part.num_rows)
            # Copied, since the next step of others overwrites them.
            ticket.rows = np.stack([self.context.logits(row) for row in rows])
            if ticket.part.hidden:
                ticket.hidden = np.stack([self.context.hidden(row) for row in rows])

    def _close_gaps(self, lanes: Sequence[Lane]) -> None:
        """Move those that write side by side, once a gap between them has cost PATIENCE steps."""
        seqs = sorted(lane.seq for lane in lanes)
        self._split = self._split + 1 if seqs[-1] - seqs[0] >= len(seqs) else 0
        if self._split < PATIENCE:
            return
        self._split = 0
        moves = moves_to_one_run(seqs, self.context.num_seqs)
        if sum(self.context.state_bytes(seq) for seq in itertools.chain(*moves)) > MOST_MOVED:
            return
        for one, other in moves:
            self.context.swap(one, other)
            here, there = self._lanes[one], self._lanes[other]
            here.seq, there.seq = other, one
            self._lanes[one], self._lanes[other] = there, here


def moves_to_one_run(seqs: Sequence[int], num_seqs: int) -> list[tuple[int, int]]:
    """Return which of these sequences to move where, so that they follow one another."""
    size, taken = len(seqs), set(seqs)
    runs = [range(first, first + size) for first in range(num_seqs - size + 1)]
    run = max(runs, key=lambda run: len(taken.intersection(run)))
    outside, free = taken.difference(run), set(run).difference(taken)
    return list(zip(sorted(outside), sorted(free), strict=True))


def _go_together(parts: Sequence[BatchPart]) -> bool:
    """Whether one step can take them: hidden states come only where every token has a row."""
    return not any(part.hidden for part in parts) or all(part.is_all_rows for part in parts)


class Lane:
    """Lane: one sequence of a shared context, with the methods of a context of its own."""

    def __init__(self, shared: SharedContext, seq: int) -> None:
        self.shared = shared
        self.seq = seq  # read while no step runs: a step may move it
        self._ticket: _Ticket | None = None
        self.can_take_back = shared.context.can_take_back
        shared.add(self)

    @property
    def num_outputs(self) -> int:
        """Return how many tokens of an answer to evaluate at once: drafts are for who is alone."""
        return 1 if self.shared.num_active > 1 else self.shared.context.num_outputs

    @property
    def batch_size(self) -> int:
        """Return how many tokens of a prompt to evaluate at once."""
        room = self.shared.context.batch_size - self.shared.context.num_seqs
        return min(PIECE, room) if self.shared.num_active > 1 else room

    @property
    def max_rows(self) -> int:
        """Return how many rows of logits one decode can give."""
        return self.shared.context.max_rows

    def decode(
        self,
        tokens: Sequence[int],
        position: int,
        *,
        all_logits: bool = False,
        hidden: bool = False,
        stop_at: int = 0,
    ) -> None:
        """Evaluate tokens, in one step with other lanes."""
        part = BatchPart(
            tokens=tokens,
            position=position,
            all_logits=all_logits,
            hidden=hidden,
            stop_at=stop_at,
        )
        self._ticket = self.shared.decode(self, part)

    def logits(self, row: int = -1) -> npt.NDArray[np.float32]:
        """Return the logits of a token of the last decode, [vocabulary]."""
        assert self._ticket is not None and self._ticket.rows is not None, "nothing was evaluated"
        logits: npt.NDArray[np.float32] = self._ticket.rows[row]
        return logits

    def hidden(self, row: int = -1) -> npt.NDArray[np.float32]:
        """Return the hidden state of a token of the last decode, [hidden_size]."""
        assert self._ticket is not None and self._ticket.hidden is not None, "not asked for"
        hidden: npt.NDArray[np.float32] = self._ticket.hidden[row]
        return hidden

    def keep_prefix(self, num_tokens: int) -> bool:
        """Forget all but the first tokens; False where this kind of memory cannot."""
        with self.shared.idle() as context:
            return context.keep_prefix(num_tokens, self.seq)

    def forget(self, position: int, count: int) -> None:
        """Forget tokens from `position` on and move those after them up to it."""
        with self.shared.idle() as context:
            context.forget(position, count, self.seq)

    def clear(self) -> None:
        """Forget every token of this lane."""
        with self.shared.idle() as context:
            context.clear(self.seq)

    def state(self) -> bytes:
        """Return the KV cache of this lane as bytes."""
        with self.shared.idle() as context:
            return context.state(self.seq)

    def set_state(self, state: bytes) -> bool:
        """Restore a KV cache; False, and empty, where it does not suit."""
        with self.shared.idle() as context:
            return context.set_state(state, self.seq)
