"""One step of the engine: the slices it computes, its batch, its results, and a step in flight."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from backbone.fast_tensor_ops import to_device
from backbone.sampling import Ranked
from engine.torch.kv.batch import BatchRow, StepBatch
from engine.torch.sequence import Sequence
from offload.messages import Confidence

_FEWEST = 16  # tokens; below, a step is all overhead
_NEW_SHARE = 0.3  # of the newest measurement in the mean


@dataclass(frozen=True)
class Slice:
    """Slice of a sequence: its next `num_tokens` uncomputed tokens, those of a draft included."""

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()  # tokens that may come next, to be verified beside it
    start: int = field(init=False)  # the place of its first token
    completes: bool = field(init=False)  # whether it ends the known tokens: the next is chosen

    def __post_init__(self) -> None:
        # As planned: by the time of the result the sequence may be a step further.
        object.__setattr__(self, "start", self.sequence.num_computed)
        known = self.num_tokens - len(self.draft)
        object.__setattr__(self, "completes", known == self.sequence.num_pending)

    @property
    def tokens(self) -> list[int]:
        """Its tokens, the draft last."""
        known = self.start + self.num_tokens - len(self.draft)
        return [*self.sequence.tokens[self.start : known], *self.draft]


def build_batch(slices: Items[Slice], block_size: int, device: torch.device) -> StepBatch:
    """Lay the slices' uncomputed tokens behind one another."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    rows: list[BatchRow] = []
    for slice_ in slices:
        sequence = slice_.sequence
        start = sequence.num_computed
        end = start + slice_.num_tokens
        rows.append(BatchRow(len(tokens), slice_.num_tokens, end, sequence.blocks))
        tokens += slice_.tokens
        positions += range(start, end)
        blocks = sequence.blocks
        slots += [blocks[p // block_size] * block_size + p % block_size for p in range(start, end)]
    on_host = torch.tensor((tokens, positions, slots))
    packed = to_device(on_host, device)
    return StepBatch(packed[0], packed[1], packed[2], rows, on_host)


@dataclass(frozen=True)
class NextToken:
    """The next token of a sequence, its confidence, and the alternatives the model ranked."""

    token: int
    confidence: Confidence
    alternatives: Ranked = ()

    @classmethod
    def from_row(cls, row: Items[float], alternatives: Ranked = ()) -> NextToken:
        """Read one row of `sampling_step.choices`, on the host."""
        token, *values = row
        return cls(int(token), Confidence(*values), alternatives)


@dataclass(frozen=True)
class Scored:
    """Scored prompt token: its log-probability, and the alternatives ranked there.

    `rank` counts the tokens that were likelier; `entropy` is that of the choice, in nats.
    """

    logprob: float
    alternatives: Ranked = ()
    rank: int = 0
    entropy: float = 0.0


@dataclass(frozen=True)
class StepResult:
    """Result of a step for one slice: several tokens where a draft was accepted."""

    chosen: tuple[NextToken, ...] = ()  # empty while a prompt is still read in pieces
    scored: tuple[Scored, ...] = ()

    @property
    def is_broken(self) -> bool:
        """Whether the arithmetic overflowed on the way."""
        numbers = [chosen.confidence.logprob for chosen in self.chosen]
        return any(map(math.isnan, [*numbers, *(scored.logprob for scored in self.scored)]))


class StepInFlight:
    """A launched step; `tokens` are its choices, on the device, one of each slice that chooses."""

    def __init__(self, slices: Items[Slice], chosen: Tensor) -> None:
        """`chosen` is float64 [choosing slices, 4], as sampling_step.choices gives them."""
        self.slices = slices
        self.began_s = time.monotonic()
        choosing = [slice_.sequence for slice_ in slices if slice_.completes]
        self.row_of = {sequence: row for row, sequence in enumerate(choosing)}
        self.tokens = chosen[:, 0].long()
        self._on_host, self._copied = _copy_to_host(chosen)

    def results(self) -> list[StepResult]:
        """Wait for the device, and return what became of each slice."""
        if self._copied is not None:
            self._copied.synchronize()
        rows = iter(self._on_host.tolist())
        return [
            StepResult((NextToken.from_row(next(rows)),)) if slice_.completes else StepResult()
            for slice_ in self.slices
        ]


def fill_placeholders(
    batch: StepBatch, slices: Items[Slice], before: StepInFlight | None
) -> StepBatch:
    """Return a batch whose placeholder tokens are those that the step before it has chosen."""
    filled: list[tuple[int, int]] = []
    for slice_, row in zip(slices, batch.rows, strict=True):
        if slice_.sequence.num_placeholders:
            assert before is not None, "a token is unknown and no step is in flight"
            # It is the last of its sequence, and of its row.
            filled.append((row.first + row.num_new - 1, before.row_of[slice_.sequence]))
    if not filled or before is None:
        return batch
    at, rows = to_device(torch.tensor(filled).T.contiguous(), batch.tokens.device)
    tokens = batch.tokens.index_copy(0, at, before.tokens.index_select(0, rows))
    return replace(batch, tokens=tokens)


def _copy_to_host(chosen: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Start the copy to the host; it is whole when the event has come."""
    if chosen.device.type != "cuda":
        return chosen, None
    on_host = torch.empty(chosen.shape, dtype=chosen.dtype, pin_memory=True)
    on_host.copy_(chosen, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()
    return on_host, copied


class TokenBudget:
    """The number of tokens a step may take, learnt from the seconds of the steps measured."""

    def __init__(self, target_step_s: float) -> None:
        """`target_step_s` is how long a step may take; 0 sets no limit."""
        self._target_s = target_step_s
        self._token_s = 0.0

    def observe(self, num_tokens: int, step_s: float) -> None:
        """Learn from one step; the smallest tell nothing of a token's cost."""
        if num_tokens < _FEWEST:
            return
        token_s = step_s / num_tokens
        known = self._token_s or token_s
        self._token_s = known + _NEW_SHARE * (token_s - known)

    def limit(self, max_tokens: int) -> int:
        """Return the tokens of the next step, at most `max_tokens`."""
        if not self._target_s or not self._token_s:
            return max_tokens
        return min(max_tokens, max(_FEWEST, int(self._target_s / self._token_s)))
