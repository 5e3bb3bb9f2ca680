"""Model drafter: drafts for one answer, written by a smaller model that reads along."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from backbone.errors import NearfarError
from edge.llama.kv_cache import KvCache
from edge.llama.vocabulary import LlamaVocabulary
from engine.draft_gate import MEMORY, DraftGate
from engine.prompt_lookup import LEAST_GAIN
from engine.window import Pins, common_prefix

LEAST_LIKELY = 0.5  # below which the small model's own guess is not worth verifying
_DONE = object()
_log = logging.getLogger("nearfar.draft")


class DraftCache:
    """Draft cache: the draft model's KV cache, and the answer it was last used for."""

    def __init__(self, cache: KvCache, vocabulary: LlamaVocabulary) -> None:
        self.cache = cache
        self.vocabulary = vocabulary
        self.gate = DraftGate()
        self.step = 0.0  # a guess beside a step of the model that verifies; 0 is not known
        self.lock = threading.Lock()
        self.holder: object = None
        self._owner: object = None

    def can_pay(self) -> bool:
        """Return whether a guess that is always right would take less time than it saves."""
        return self.step + self.gate.times.ratio(2) - 1 < 1 / LEAST_GAIN

    def guessed(self, num_tokens: int, seconds: float) -> None:
        """Note how long guesses took."""
        if usual := self.gate.times.plain.value():
            found = seconds / num_tokens / usual
            self.step = MEMORY * self.step + (1 - MEMORY) * found if self.step else found

    def lend(self, holder: object, owner: object) -> None:
        """Let an answer use the cache; what was read for another owner is forgotten first."""
        if self._owner != owner:
            self.cache.clear()
        self.holder, self._owner = holder, owner

    def forget(self) -> None:
        """Forget all that was read, as soon as nobody drafts."""
        with self.lock:
            self.cache.clear()
            self.holder = None


class ModelDrafter:
    """Model drafter: proposes the likeliest tokens as long as the draft model is sure of them.

    It reads a prompt a batch at each step, and guesses once it has caught up. `num_tokens` is how
    many there are in the vocabulary of the model that verifies; `owner` is who asks.
    """

    def __init__(
        self,
        reader: DraftCache,
        prompt: Sequence[int],
        pins: Pins,
        *,
        max_draft: int,
        num_tokens: int,
        owner: object = None,
    ) -> None:
        self._owner = owner
        self._reader, self._cache = reader, reader.cache
        self._known = list(prompt)
        self._pins = _fitting(pins, len(prompt), self._cache.window.capacity)
        self._max_draft = max_draft
        self._num_tokens = num_tokens
        self._unread: Iterator[None] | None = None
        self._sure = 0  # tokens of the cache that are known to have been said
        self._seconds = 0.0
        self._may = False  # whether this step could have taken a draft
        self._failed = False

    def add(self, token: int) -> None:
        """Take the next token of the answer."""
        self._known.append(token)

    def propose(self, limit: int) -> list[int]:
        """Return at most `limit` tokens that may come next, often none."""
        self._seconds, self._may = 0.0, limit > 0
        reader = self._reader
        if self._failed or limit <= 0 or not reader.can_pay() or not reader.gate.wanted():
            return []
        started = time.perf_counter()
        try:
            with self._reader.lock:
                return self._guess(min(limit, self._max_draft))
        except NearfarError as error:
            self._failed = True
            _log.warning("the draft model failed (%s); this answer goes on without it", error)
            return []
        finally:
            # Reading along counts as well, whether or not a guess came of it.
            self._seconds = time.perf_counter() - started

    def observe(self, num_proposed: int, num_accepted: int, seconds: float) -> None:
        """Learn whether the draft was worth its time."""
        gate = self._reader.gate
        if num_proposed:
            gate.times.add(num_proposed + 1, seconds)
            self._reader.guessed(num_proposed, self._seconds)
            gate.drafted(seconds + self._seconds, num_accepted + 1)
        elif self._may:
            gate.plain(seconds)
            if self._seconds:
                gate.wasted(self._seconds)

    def _guess(self, limit: int) -> list[int]:
        if (row := self._catch_up()) is None:
            return []
        draft: list[int] = []
        likely = 1.0  # that all guesses so far are right
        ratio = self._reader.gate.times.ratio
        while (found := self._likeliest(row)) is not None:
            token, probability = found
            likely *= probability
            longer = ratio(len(draft) + 2) - ratio(len(draft) + 1)
            if likely < longer:
                break
            draft.append(token)
            if len(draft) == limit or self._reader.vocabulary.is_end(token):
                break
            # The next guess costs a step of the small model and is right at most as often.
            if likely < self._reader.step + longer:
                break
            if not self._cache.append([token], self._pins):
                break
            row = 0
        return draft

    def _catch_up(self) -> int | None:
        """Let the cache hold all that was said; return the row behind it, None while it reads."""
        if self._reader.holder is not self:
            self._reader.lend(self, self._owner)
            self._sure = 0
            self._unread = self._cache.read(list(self._known), self._pins)
        if self._unread is not None:
            if next(self._unread, _DONE) is not _DONE:
                return None
            self._unread, self._sure = None, len(self._cache.window.stream)
        self._take_back()
        behind = self._known[len(self._cache.window.stream) :]
        if len(behind) > self._cache.max_draft + 1:  # as many rows of logits as one step gives
            self._unread = self._cache.read(list(self._known), self._pins)
            return None
        if not self._cache.append(behind, self._pins):
            return None
        self._sure = len(self._cache.window.stream)
        return len(behind) - 1

    def _take_back(self) -> None:
        """Forget guesses of the last time that were not said."""
        guessed = self._cache.window.stream[self._sure :]
        said = self._known[self._sure : self._sure + len(guessed)]
        self._cache.rollback(len(guessed) - common_prefix(guessed, said))

    def _likeliest(self, row: int) -> tuple[int, float] | None:
        """Return the likeliest token and its probability; None where that is small, or the token
        not in both models.
        """
        token, probability = _best(self._cache.logits(row))
        fit = probability >= LEAST_LIKELY and token < self._num_tokens
        return (token, probability) if fit else None


def _best(logits: npt.NDArray[np.float32]) -> tuple[int, float]:
    """Return where logits, [vocabulary], peak, and the probability of that."""
    best = int(logits.argmax())
    with np.errstate(invalid="ignore"):  # a model that has no numbers is sure of nothing
        return best, 1.0 / float(np.exp(logits - logits[best]).sum())


def _fitting(pins: Pins, num_prompt: int, capacity: int) -> Pins:
    """Return the pins where they leave half of the small model's window free, else none."""
    if 2 * pins.num_tokens <= capacity:
        return pins
    return Pins(num_first=0, last_start=num_prompt, last_end=num_prompt)
