"""KV cache of one context: reused from prompt to prompt, and bounded by a window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from backbone.errors import NearfarError
from edge.llama.context import Context, StepAborted
from edge.llama.lanes import Lane
from engine.sessions import Header, Saved
from engine.window import Pins, Window


class KvCache:
    """KV cache: keeps a context and the books of its window in step.

    With `sliding` off, nothing is ever forgotten in mid-answer and append() says when the
    context is full. With `reuse` off, each prompt is read from its start.
    """

    def __init__(
        self, context: Context | Lane, window: Window, *, sliding: bool, reuse: bool
    ) -> None:
        self.context = context
        self.window = window
        self.sliding = sliding
        self._reuse = reuse
        self._appended = False
        self.num_reused = 0  # tokens of the last prompt that were held already
        self.stop_at = 0  # the address of a byte that ends a step (offload/cancellation.py)
        self.keep_hidden = False  # of the tokens that an answer is chosen from

    def read(self, prompt: Sequence[int], pins: Pins) -> Iterator[None]:
        """Evaluate what is new in a prompt, a batch at each step; the logits are of its end.

        A prompt longer than the window is read without its middle. Raises NearfarError when
        llama.cpp fails; the cache is then empty and sound.
        """
        window = self.window
        assert pins.num_tokens < window.capacity, "what is pinned must fit"
        self._keep_shared(prompt, pins)
        self.num_reused = len(window.stream)
        resume = window.resume_at(len(prompt), pins, room=window.capacity // 4)
        first = min(max(window.num_sinks, pins.num_first), resume)
        left = len(prompt) - max(first, len(window.stream))
        if left > window.capacity - first and resume > first:
            self._truncate(min(first, len(window.stream)))
            yield from self._feed(prompt[len(window.stream) : first], pins)
            window.skip(prompt[first:resume])
        if self.keep_hidden:  # only a step of one token can keep its hidden state
            yield from self._feed(prompt[len(window.stream) : -1], pins)
        yield from self._feed(prompt[len(window.stream) :], pins)

    def held(self, prompt: Sequence[int]) -> int:
        """Return how many of a prompt's tokens need not be read again."""
        return self.window.shared(prompt[:-1]) if self._reuse else 0

    def score(self, prompt: Sequence[int], first: int = 1) -> Iterator[range]:
        """Read a prompt whose tokens from place `first` on are to be judged.

        Yield places in it whose logits row 0 and on now hold. What is held of the prompt before
        these tokens is not read again. The prompt must fit into the window. Errors as read().
        """
        assert len(prompt) < self.window.capacity, "a prompt to be scored must fit"
        if self.window.dropped:
            self.clear()
        self._truncate(min(self.held(prompt), first - 1))
        self.num_reused = len(self.window.stream)
        size = self.context.max_rows
        for start in range(self.num_reused, len(prompt), size):
            places = range(start, min(start + size, len(prompt)))
            self._decode(prompt[start : places.stop], all_logits=True)
            yield places
        self._appended = False  # row 0 is the end of the prompt again

    def append(self, tokens: Sequence[int], pins: Pins) -> bool:
        """Evaluate the newest tokens of the answer; False where there is no more room.

        Logits are kept of each.
        """
        while self.window.free < len(tokens):
            if not self._evict(pins):
                return False
        self._decode(tokens, all_logits=True)
        return True

    @property
    def max_draft(self) -> int:
        """Return how many drafted tokens one step can verify; none where none can be taken back."""
        if not self.context.can_take_back:
            return 0
        return min(self.context.num_outputs, self.context.batch_size) - 1

    @property
    def max_forced(self) -> int:
        """Return how many tokens that are certain one step can take behind another."""
        return self.context.max_rows - 1

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Return the logits after the token at `row` of the last append, [vocabulary].

        After read(), row 0 is the end of the prompt.
        """
        return self.context.logits(row if self._appended else -1)

    def hidden(self, row: int) -> npt.NDArray[np.float32]:
        """Return the hidden state behind logits(row), [hidden_size], where they are kept."""
        return self.context.hidden(row if self._appended else -1)

    def rollback(self, count: int) -> None:
        """Forget the newest tokens."""
        if count > 0:
            self._truncate(len(self.window.stream) - count)

    def _keep_shared(self, prompt: Sequence[int], pins: Pins) -> None:
        # The last prompt token is always evaluated: its logits are not kept.
        shared = self.held(prompt)
        self._truncate(shared)
        if not self._is_good_start(prompt, pins):
            self.clear()

    def _is_good_start(self, prompt: Sequence[int], pins: Pins) -> bool:
        """Return whether what is held loses nothing that reading anew would keep."""
        window, length = self.window, len(self.window.stream)
        if window.dropped == 0:
            return True
        if not window.holds(0, min(pins.num_first, length)):
            return False
        if not window.holds(min(pins.last_start, length), length):
            return False
        filled = window.used + len(prompt) - length
        return len(prompt) > window.capacity and filled > window.capacity // 2

    def _truncate(self, length: int) -> None:
        """Shorten the stream to its first tokens, in the books and in the context."""
        used = self.window.used
        kept = self.window.truncate(length)
        if kept == 0 or (kept < used and not self.context.keep_prefix(kept)):
            self.clear()

    def _feed(self, tokens: Sequence[int], pins: Pins) -> Iterator[None]:
        position = 0
        while position < len(tokens):
            size = min(self.context.batch_size, len(tokens) - position)
            # Room for all at once: every step costs, and what it drops would go anyway.
            while self.window.free < size and self._evict(pins):
                pass
            size = min(size, self.window.free)
            assert size > 0, "a prompt whose pins fit always finds room"
            self._decode(tokens[position : position + size])
            position += size
            yield

    def _decode(self, tokens: Sequence[int], *, all_logits: bool = False) -> None:
        self._appended = all_logits
        try:
            self.context.decode(
                tokens,
                self.window.used,
                all_logits=all_logits,
                hidden=self.keep_hidden and (all_logits or len(tokens) == 1),
                stop_at=self.stop_at,
            )
        except StepAborted:
            # What was read before it is still good for the next prompt.
            if not self.context.keep_prefix(self.window.used):
                self.clear()
            raise
        except NearfarError:
            self.clear()
            raise
        self.window.append(tokens)

    def _evict(self, pins: Pins) -> bool:
        found = self.window.evict(pins) if self.sliding else None
        if found is None:
            return False
        self.context.forget(*found)
        return True

    def clear(self) -> None:
        """Forget every token."""
        self.window.clear()
        self.context.clear()

    def saved(self, model: str) -> Saved:
        """Return what is held, for a file."""
        header = Header(model=model, stream=list(self.window.stream), kept=list(self.window.kept))
        return Saved(header=header, state=self.context.state())

    def restore(self, saved: Saved) -> bool:
        """Hold what was saved instead; False, and empty, where it does not suit this context."""
        header = saved.header
        self.clear()
        if not _is_sound(header, self.window.capacity) or not self.context.set_state(saved.state):
            return False
        self.window.stream, self.window.kept = list(header.stream), list(header.kept)
        return True


def _is_sound(header: Header, capacity: int) -> bool:
    """Return whether the ranges are in order, within the stream, and fit."""
    edges = [edge for pair in header.kept for edge in pair]
    in_order = all(low < high for low, high in pairwise(edges))
    used = sum(end - start for start, end in header.kept)
    return in_order and 0 < used <= capacity and edges[0] == 0 and edges[-1] == len(header.stream)
