"""A sequence in the engine: its known tokens, how many are computed, and its blocks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

from backbone.sampling import Sampler
from engine.drafts import Drafter
from engine.torch.kv.blocks import ROOT, chain_hash, salted
from engine.window import Pins

FREED = -1  # stands in a table for a block behind the window
_numbers = itertools.count()
_UNKNOWN = -1  # no token: what is computed from it by mistake fails


class QueueLane(NamedTuple):
    """Queue lane: for whom a sequence runs, and whether it is batch work, which nobody reads."""

    device: str = ""
    is_batch: bool = False


@dataclass(frozen=True, kw_only=True)
class HeldConversation:
    """Held conversation: what a sequence goes on with, for a store that keeps it whole (a ring)."""

    pins: Pins  # what of the prompt must stay
    owner: object = None  # with whom its text may be shared
    session: str | None = None  # under which name it is kept
    reuse: bool = True  # of what was read before


class Sequence:
    """Sequence of prompt and answer; its first `num_computed` tokens are in the KV cache.

    There is no phase: a prompt in pieces, a decode step and a recomputation after preemption
    are all "tokens not computed yet".
    """

    def __init__(
        self,
        prompt: list[int],
        *,
        max_tokens: int,
        sampler: Sampler,
        deadline_s: float = float("inf"),
        num_alternatives: int = 0,
        scores: range | None = None,
        lane: QueueLane = QueueLane(),  # noqa: B008
        salt: str = "",
        drafter: Callable[[Items[int]], Drafter] | None = None,
        conversation: HeldConversation | None = None,
    ) -> None:
        """`drafter` is made of the known tokens at the first draft."""
        self.number = next(_numbers)  # order of arrival
        self.arrived_s = time.monotonic()
        self.lane = lane
        self._make_drafter = drafter
        self._drafter: Drafter | None = None
        self._asked_drafter = False  # in this step
        self.conversation = conversation or HeldConversation(pins=Pins.whole(len(prompt)))
        self.tokens = list(prompt)
        self.num_prompt_tokens = len(prompt)
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.deadline_s = deadline_s  # on time.monotonic's clock
        self.num_alternatives = num_alternatives  # likeliest tokens to report at every place
        # The next place of the prompt whose likelihood is asked for; None: of none.
        self.num_scored = None if scores is None else scores.start
        self.scores_until = 0 if scores is None else scores.stop
        self.num_placeholders = 0  # tokens at the end that only the device knows yet
        self.num_computed = 0
        self.num_preemptions = 0
        self.num_cached_tokens = 0  # found in the prefix cache on the last admission
        self.num_prompt_cached = 0  # of the prompt, found there on the first
        self.num_dropped = 0  # tokens that a ring holds no more
        self.blocks: list[int] = []
        self._names: list[bytes] = []
        self._root = salted(ROOT, salt)

    @property
    def num_pending(self) -> int:
        """Tokens that are still to be computed."""
        return len(self.tokens) - self.num_computed

    @property
    def held_blocks(self) -> list[int]:
        """Blocks of the table that were not given back."""
        return [block for block in self.blocks if block != FREED]

    @property
    def num_generated(self) -> int:
        """Tokens of the answer, those not counted that are not known yet."""
        return len(self.tokens) - self.num_prompt_tokens - self.num_placeholders

    @property
    def is_all_chosen(self) -> bool:
        """Whether the answer will be whole when what is under way arrives."""
        return (
            self.num_placeholders > 0
            and self.num_generated + self.num_placeholders >= self.max_tokens
        )

    @property
    def can_overlap(self) -> bool:
        """Whether a step can be planned before the token of the one before it is known.

        Not where the choice hangs on earlier ones, nor where more is asked for than tokens.
        """
        hangs_on_choices = self.sampler.hangs_on_choices
        asks_more = self.num_alternatives > 0 or self.wants_scores
        return self._make_drafter is None and not hangs_on_choices and not asks_more

    @property
    def wants_scores(self) -> bool:
        """Whether tokens of the prompt are still to be scored, which a cached prefix could not."""
        return self.num_scored is not None and self.num_scored < self.scores_until

    def draft(self, limit: int) -> tuple[int, ...]:
        """Return at most `limit` tokens that come next: those that are certain, or a draft."""
        if forced := self.sampler.forced:
            # Behind the last of them there is a choice, which must see it taken.
            return tuple(forced[: min(limit, len(forced) - 1)])
        if self._make_drafter is None or not self.sampler.takes_drafts:
            return ()
        if self._drafter is None:
            self._drafter = self._make_drafter(self.tokens)
        self._asked_drafter = True
        return tuple(self._drafter.propose(limit))

    def observe(self, num_drafted: int, num_right: int, seconds: float) -> None:
        """Learn how the draft of a step fared that was not shared with many."""
        if self._drafter is not None and self._asked_drafter:
            self._drafter.observe(num_drafted, num_right, seconds)
        self._asked_drafter = False

    def append(self, token: int) -> None:
        """Add a chosen token, or fill the first placeholder."""
        if self.num_placeholders:
            self.tokens[len(self.tokens) - self.num_placeholders] = token
            self.num_placeholders -= 1
        else:
            self.tokens.append(token)
        self.sampler.took(token)
        if self._drafter is not None:
            self._drafter.add(token)

    def append_placeholder(self) -> None:
        """Append a placeholder for a token that only the device knows yet."""
        self.tokens.append(_UNKNOWN)
        self.num_placeholders += 1

    def roll_back(self, num_computed: int) -> None:
        """Forget the step in flight: it has failed, and is computed again from there."""
        del self.tokens[len(self.tokens) - self.num_placeholders :]
        self.num_placeholders = 0
        self.num_computed = num_computed

    def block_names(self, count: int, block_size: int) -> list[bytes]:
        """Return the content names of the first `count` blocks, all of them full."""
        while len(self._names) < count:
            at = len(self._names)
            parent = self._names[-1] if self._names else self._root
            tokens = self.tokens[at * block_size : (at + 1) * block_size]
            assert len(tokens) == block_size, "only full blocks have a name"
            self._names.append(chain_hash(parent, tokens))
        return self._names[:count]
