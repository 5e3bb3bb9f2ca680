"""Sampling: the next token of many sequences at once, without waiting for the device.

A sequence's choices depend on its own settings and seed alone, never on its neighbours: every
one draws its own uniform number and inverts its own cumulative distribution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backbone.fast_tensor_ops import place_of_largest, to_device, two_largest


@dataclass(frozen=True, kw_only=True)
class SamplingValues:
    """Sampling values: temperature 0 is greedy; top_k 0 and 1.0 of the others are no filter."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class Constraint(Protocol):
    """Constraint on an answer: it says which tokens may come next."""

    @property
    def done(self) -> bool:
        """Whether nothing more may follow."""
        ...

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that must come next, in turn; often none."""
        ...

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return bool [vocab]; never all False."""
        ...

    def accept(self, token: int) -> None:
        """Move on past a token that was allowed."""
        ...


class Sampler:
    """Sampler of one sequence: its settings, random stream, bias and the tokens it has seen.

    `logit_bias` is added to the logits of the token ids it names; each must be below `vocab_size`.
    Of `ends` none may come among the first `min_tokens` tokens.
    """

    def __init__(
        self,
        values: SamplingValues,
        *,
        seed: int | None = None,
        vocab_size: int = 0,
        logit_bias: Mapping[int, float] | None = None,
        constraint: Constraint | None = None,
        ends: Collection[int] = (),
        min_tokens: int = 0,
    ) -> None:
        self.values = values
        self._ends = sorted(ends)
        self._num_wanted = min_tokens  # tokens that must still come
        self.logit_bias = dict(logit_bias or {})
        self.constrain(constraint)
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed % 2**63)
        penalised = values.repetition_penalty != 1.0
        self.seen = torch.zeros(vocab_size, dtype=torch.bool) if penalised else None
        counts = bool(values.presence_penalty or values.frequency_penalty)
        self.counts = torch.zeros(vocab_size) if counts else None  # float32 [vocab], of the answer

    def constrain(self, constraint: Constraint | None) -> None:
        """Hold the next tokens to a constraint instead of the one before, or to none."""
        self.constraint = constraint
        self._prepare()

    def _prepare(self) -> None:
        # Asked for as soon as it can be known: where it fails, no other row of a step does.
        held = self.constraint
        self.allowed: Tensor | None = None
        if held is not None and not held.done and not held.forced:
            self.allowed = torch.from_numpy(held.allowed())

    def note(self, tokens: Iterable[int]) -> None:
        """Remember tokens of the prompt or answer, which a repetition penalty bears on."""
        if self.seen is not None:
            self.seen[torch.tensor(list(tokens), dtype=torch.int64)] = True

    @property
    def is_plain(self) -> bool:
        """Whether logits are used as the network gives them."""
        return not self.logit_bias and not self.hangs_on_choices

    @property
    def takes_drafts(self) -> bool:
        """Whether drafts can be verified: no choice by chance, none that hangs on earlier ones."""
        return self.values.temperature == 0.0 and not self.hangs_on_choices

    @property
    def hangs_on_choices(self) -> bool:
        """Whether what may come hangs on the tokens chosen so far."""
        penalised = self.seen is not None or self.counts is not None
        return penalised or self.constraint is not None or bool(self.withheld)

    @property
    def withheld(self) -> Sequence[int]:
        """Return the tokens that may not come yet."""
        return self._ends if self._num_wanted > 0 else ()

    @property
    def is_done(self) -> bool:
        """Whether the answer is whole, so that no token may follow."""
        return self.constraint is not None and self.constraint.done

    @property
    def forced(self) -> Sequence[int]:
        """The tokens that are chosen next, in turn, whatever the logits are; often none."""
        return () if self.constraint is None else self.constraint.forced

    def took(self, token: int) -> None:
        """Remember a token that was chosen."""
        self.note((token,))
        if self.counts is not None:
            self.counts[token] += 1
        self._num_wanted -= 1
        if self.constraint is not None:
            self.constraint.accept(token)
            self._prepare()

    def uniform(self) -> float:
        """Return the next number of this sequence's random stream, in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


@dataclass(frozen=True)
class _Settings:
    """Settings of the rows that are drawn, copied to the device at once; each is [rows, 1]."""

    at: Tensor  # int64 [rows], which rows they are
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    uniform: Tensor  # float64, in [0, 1)
    longest: int  # the largest top_k, on the host


_Draw = Callable[[Tensor, _Settings], Tensor]


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Return one token per row of float32 logits [rows, vocab]: int64 [rows], same device.

    Penalty, bias and constraint come first, then the filters in Hugging Face's order:
    temperature, top_k, top_p, min_p. The device is never waited for. Several rows of a sampler
    with forced tokens are theirs, one after another.
    """
    forced = _forced(samplers)
    logits = _adjusted(logits, samplers)
    tokens = place_of_largest(logits)
    groups: dict[_Draw, list[int]] = {}
    for row, sampler in enumerate(samplers):
        if row not in forced and (draw := _draw_of(sampler.values)) is not None:
            groups.setdefault(draw, []).append(row)
    for draw, rows in groups.items():
        settings = _settings(rows, samplers, logits.device)
        tokens[settings.at] = draw(logits[settings.at], settings)
    if forced:
        at, values = (torch.tensor(list(each)) for each in (forced, forced.values()))
        tokens[to_device(at, tokens.device)] = to_device(values, tokens.device)
    return tokens


def _forced(samplers: Sequence[Sampler]) -> dict[int, int]:
    """Return the rows whose token is certain, and those tokens."""
    found: dict[int, int] = {}
    counts: Counter[int] = Counter()
    for row, sampler in enumerate(samplers):
        if sampler.forced:
            found[row] = sampler.forced[counts[id(sampler)]]
            counts[id(sampler)] += 1
    return found


def _settings(rows: Sequence[int], samplers: Sequence[Sampler], device: torch.device) -> _Settings:
    drawn = []
    for row in rows:
        values = samplers[row].values
        filters = (values.temperature, values.top_k, values.top_p, values.min_p)
        drawn.append((row, *filters, samplers[row].uniform()))
    columns = to_device(torch.tensor(drawn, dtype=torch.float64), device).unsqueeze(-1)
    temperature, top_k, top_p, min_p = columns[:, 1:5].float().unbind(1)
    longest = max(samplers[row].values.top_k for row in rows)
    uniform = columns[:, 5].contiguous()
    return _Settings(columns[:, 0, 0].long(), temperature, top_k, top_p, min_p, uniform, longest)


def confidence(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return [rows, 3]: logprob of the token, entropy and top-two margin, in nats.

    They are those of the unmodified distribution, whatever the sampling did to it.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(-1, tokens.unsqueeze(-1))
    # A logit of minus infinity has probability 0 and adds nothing.
    entropy = logprobs.exp().mul_(logprobs.clamp_min(-1e4)).sum(-1, keepdim=True).neg_()
    best = two_largest(logprobs)
    return torch.cat((chosen, entropy, best[..., :1] - best[..., 1:]), dim=-1)


Ranked = tuple[tuple[int, float], ...]  # token ids and log-probabilities, the likeliest first


def likeliest(logits: Tensor, counts: Sequence[int]) -> list[Ranked]:
    """Return of each row of logits [rows, vocab] as many of its best tokens, with their nats."""
    if not any(counts):
        return [()] * len(counts)
    best = logits.topk(min(max(counts), logits.shape[-1]), dim=-1)
    nats = best.values - logits.logsumexp(-1, keepdim=True)
    rows = zip(best.indices.tolist(), nats.tolist(), counts, strict=True)
    return [tuple(zip(ids[:count], values[:count], strict=True)) for ids, values, count in rows]


def _adjusted(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    if all(sampler.is_plain for sampler in samplers):
        return logits
    logits = logits.clone()
    for row, sampler in zip(logits, samplers, strict=True):
        if sampler.seen is not None:
            seen = to_device(sampler.seen, row.device)
            _penalise(row, seen, sampler.values.repetition_penalty)
        if sampler.counts is not None:
            counts, asked = to_device(sampler.counts, row.device), sampler.values
            row -= counts * asked.frequency_penalty + (counts > 0) * asked.presence_penalty
        if sampler.logit_bias:
            at = to_device(torch.tensor(list(sampler.logit_bias)), row.device)
            row[at] += to_device(torch.tensor(list(sampler.logit_bias.values())), row.device)
        if sampler.withheld:
            row[to_device(torch.tensor(sampler.withheld), row.device)] = float("-inf")
        if sampler.allowed is not None:
            row.masked_fill_(~to_device(sampler.allowed, row.device), float("-inf"))
    return logits


def _penalise(row: Tensor, seen: Tensor, penalty: float) -> None:
    """Divide positive and multiply negative logits of seen tokens (Keskar, arXiv 1909.05858)."""
    scaled = torch.where(row > 0, row / penalty, row * penalty)
    row.copy_(torch.where(seen, scaled, row))


def _draw_of(values: SamplingValues) -> _Draw | None:
    """Return how a row is drawn; it hangs on the row's own settings, not on its neighbours'."""
    if values.temperature == 0.0:
        return None
    if values.top_k > 0:
        return _draw_shortlist
    return _draw_sorted if values.top_p < 1.0 or values.min_p > 0.0 else _draw_plain


def _draw_plain(logits: Tensor, settings: _Settings) -> Tensor:
    return _invert(torch.softmax(logits / settings.temperature, -1), settings)


def _draw_sorted(logits: Tensor, settings: _Settings) -> Tensor:
    ordered, tokens = logits.sort(descending=True, stable=True)
    return _draw_ordered(ordered, tokens, settings)


def _draw_shortlist(logits: Tensor, settings: _Settings) -> Tensor:
    longest = min(settings.longest, logits.shape[-1])
    ordered, tokens = logits.topk(longest)
    beyond = torch.arange(longest, device=logits.device) >= settings.top_k
    return _draw_ordered(ordered.masked_fill(beyond, float("-inf")), tokens, settings)


def _draw_ordered(ordered: Tensor, tokens: Tensor, settings: _Settings) -> Tensor:
    """Draw after nucleus (arXiv 1904.09751) and min-p (arXiv 2407.01082), best tokens first."""
    probs = torch.softmax(ordered / settings.temperature, -1)
    before = probs.cumsum(-1) - probs
    keep = before < settings.top_p
    keep &= probs >= settings.min_p * probs[:, :1]
    keep[:, 0] = True
    return tokens.gather(-1, _invert(probs * keep, settings).unsqueeze(-1)).squeeze(-1)


def _invert(probs: Tensor, settings: _Settings) -> Tensor:
    """Return the place [rows] where each row's cumulative sum passes its uniform number."""
    cumulative = probs.double().cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    at = torch.searchsorted(cumulative, total * settings.uniform, right=True)
    # Rounding can point past the last token that has any probability, and NaN past them all.
    last = torch.searchsorted(cumulative, total).clamp_max(probs.shape[-1] - 1)
    return torch.minimum(at, last).squeeze(-1)
