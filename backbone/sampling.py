"""How the next token is chosen, many sequences at once, without waiting for the device.

A sequence's choices depend on its own settings and seed alone, never on its neighbours: every
one draws its own uniform number and inverts its own cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SamplingValues:
    """Temperature 0 is greedy, top_k 0 and the ones of the others switch a filter off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0


class Constraint(Protocol):
    """What an answer must look like: it says which tokens may come next."""

    @property
    def done(self) -> bool:
        """Whether nothing more may follow."""
        ...

    def allowed(self) -> Tensor:
        """Return bool [vocab], on the host; never all False."""
        ...

    def accept(self, token: int) -> None:
        """Move on past a token that was allowed."""
        ...


class Sampler:
    """One sequence's settings, random stream, bias, and record of the tokens it has seen.

    `logit_bias` is added to the logits of the token ids it names; each must be below `vocab_size`.
    """

    def __init__(
        self,
        values: SamplingValues,
        *,
        seed: int | None = None,
        vocab_size: int = 0,
        logit_bias: Mapping[int, float] | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.values = values
        self.logit_bias = dict(logit_bias or {})
        self.constraint = constraint
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed % 2**63)
        penalised = values.repetition_penalty != 1.0
        self.seen = torch.zeros(vocab_size, dtype=torch.bool) if penalised else None

    def note(self, tokens: Iterable[int]) -> None:
        """Remember tokens of the prompt or answer, which a repetition penalty bears on."""
        if self.seen is not None:
            self.seen[torch.tensor(list(tokens), dtype=torch.int64)] = True

    @property
    def is_plain(self) -> bool:
        """Whether logits are used as the network gives them."""
        return self.seen is None and not self.logit_bias and self.constraint is None

    @property
    def takes_drafts(self) -> bool:
        """Whether drafts can be verified: no choice by chance, none that hangs on earlier ones."""
        greedy = self.values.temperature == 0.0
        return greedy and self.seen is None and self.constraint is None

    @property
    def is_done(self) -> bool:
        """Whether the answer is whole, so that no token may follow."""
        return self.constraint is not None and self.constraint.done

    def took(self, token: int) -> None:
        """Remember a token that was chosen."""
        self.note((token,))
        if self.constraint is not None:
            self.constraint.accept(token)

    def uniform(self) -> float:
        """Return the next number of this sequence's random stream, in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


_Draw = Callable[[Tensor, list[Sampler]], Tensor]


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Return one token per row of float32 logits [rows, vocab]: int64 [rows], same device.

    Penalty, bias and constraint come first, then the filters in Hugging Face's order:
    temperature, top_k, top_p, min_p.
    """
    logits = _adjusted(logits, samplers)
    tokens = logits.argmax(-1)
    groups: dict[_Draw, list[int]] = {}
    for row, sampler in enumerate(samplers):
        if (draw := _draw_of(sampler.values)) is not None:
            groups.setdefault(draw, []).append(row)
    for draw, rows in groups.items():
        at = torch.tensor(rows, device=logits.device)
        tokens[at] = draw(logits[at], [samplers[row] for row in rows])
    return tokens


def confidence(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return [rows, 3]: logprob of the token, entropy and top-two margin, in nats.

    They are those of the unmodified distribution, whatever the sampling did to it.
    """
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs.gather(-1, tokens.unsqueeze(-1))
    # A logit of minus infinity has probability 0 and adds nothing.
    entropy = -(logprobs.exp() * logprobs.clamp_min(-1e4)).sum(-1, keepdim=True)
    best = logprobs.topk(2, dim=-1).values
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
            _penalise(row, sampler.seen.to(row.device), sampler.values.repetition_penalty)
        if sampler.logit_bias:
            at = torch.tensor(list(sampler.logit_bias), device=row.device)
            row[at] += torch.tensor(list(sampler.logit_bias.values()), device=row.device)
        if sampler.constraint is not None:
            row.masked_fill_(~sampler.constraint.allowed().to(row.device), float("-inf"))
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


def _draw_plain(logits: Tensor, samplers: list[Sampler]) -> Tensor:
    probs = torch.softmax(logits / _column(samplers, "temperature", logits), -1)
    return _invert(probs, samplers)


def _draw_sorted(logits: Tensor, samplers: list[Sampler]) -> Tensor:
    ordered, tokens = logits.sort(descending=True, stable=True)
    return _draw_ordered(ordered, tokens, samplers)


def _draw_shortlist(logits: Tensor, samplers: list[Sampler]) -> Tensor:
    longest = min(max(sampler.values.top_k for sampler in samplers), logits.shape[-1])
    ordered, tokens = logits.topk(longest)
    ranks = torch.arange(longest, device=logits.device)
    beyond = ranks >= _column(samplers, "top_k", logits)
    return _draw_ordered(ordered.masked_fill(beyond, float("-inf")), tokens, samplers)


def _draw_ordered(ordered: Tensor, tokens: Tensor, samplers: list[Sampler]) -> Tensor:
    """Draw after nucleus (arXiv 1904.09751) and min-p (arXiv 2407.01082), best tokens first."""
    probs = torch.softmax(ordered / _column(samplers, "temperature", ordered), -1)
    before = probs.cumsum(-1) - probs
    keep = before < _column(samplers, "top_p", ordered)
    keep &= probs >= _column(samplers, "min_p", ordered) * probs[:, :1]
    keep[:, 0] = True
    return tokens.gather(-1, _invert(probs * keep, samplers).unsqueeze(-1)).squeeze(-1)


def _invert(probs: Tensor, samplers: list[Sampler]) -> Tensor:
    """Return the place [rows] where each row's cumulative sum passes its uniform number."""
    cumulative = probs.double().cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    uniform = torch.tensor([[s.uniform()] for s in samplers], dtype=torch.float64)
    at = torch.searchsorted(cumulative, total * uniform.to(probs.device), right=True)
    # Rounding can point past the last token that has any probability, and NaN past them all.
    last = torch.searchsorted(cumulative, total).clamp_max(probs.shape[-1] - 1)
    return torch.minimum(at, last).squeeze(-1)


def _column(samplers: list[Sampler], name: str, like: Tensor) -> Tensor:
    values = [[float(getattr(sampler.values, name))] for sampler in samplers]
    return torch.tensor(values, device=like.device)  # float32 [rows, 1]
