"""How the next token is chosen, many sequences at once, without waiting for the device.

A sequence's choices depend on its own settings and seed alone, never on its neighbours: every
one draws its own uniform number and inverts its own cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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

    @property
    def filters(self) -> bool:
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0


class Sampler:
    """One sequence's settings, random stream and record of the tokens it has seen."""

    def __init__(
        self, values: SamplingValues, *, seed: int | None = None, vocab_size: int = 0
    ) -> None:
        self.values = values
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

    def uniform(self) -> float:
        """Return the next number of this sequence's random stream, in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Return one token per row of float32 logits [rows, vocab]: int64 [rows], same device.

    Filters apply in Hugging Face's order: penalty, temperature, top_k, top_p, min_p.
    """
    if all(_is_plain_greedy(sampler) for sampler in samplers):
        return logits.argmax(-1)
    rows = [_choose_one(row, sampler) for row, sampler in zip(logits, samplers, strict=True)]
    return torch.stack(rows)


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


def _is_plain_greedy(sampler: Sampler) -> bool:
    return sampler.values.temperature == 0.0 and sampler.seen is None


def _choose_one(logits: Tensor, sampler: Sampler) -> Tensor:
    values = sampler.values
    if sampler.seen is not None:
        logits = _penalised(logits, sampler.seen.to(logits.device), values.repetition_penalty)
    if values.temperature == 0.0:
        return logits.argmax(-1)
    logits = logits / values.temperature
    if not values.filters:
        return _invert(torch.softmax(logits, -1), sampler.uniform())
    ordered, tokens = _shortlist(logits, values.top_k)
    return tokens[_invert(_filtered(torch.softmax(ordered, -1), values), sampler.uniform())]


def _penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (Keskar, arXiv 1909.05858)."""
    scaled = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, scaled, logits)


def _shortlist(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return logits and their tokens, best first."""
    if 0 < top_k < logits.shape[-1]:
        ordered, tokens = logits.topk(top_k)
        return ordered, tokens
    return logits.sort(descending=True, stable=True)


def _filtered(probs: Tensor, values: SamplingValues) -> Tensor:
    """Zero what nucleus (arXiv 1904.09751) and min-p (arXiv 2407.01082) drop of sorted probs."""
    before = probs.cumsum(-1) - probs
    keep = (before < values.top_p) & (probs >= values.min_p * probs[0])
    keep[0] = True
    return probs * keep


def _invert(probs: Tensor, uniform: float) -> Tensor:
    cumulative = probs.double().cumsum(-1)
    at = torch.searchsorted(cumulative, cumulative[-1:] * uniform, right=True)
    # Rounding can point past the last token that has any probability, and NaN past them all.
    last = torch.searchsorted(cumulative, cumulative[-1:]).clamp_max(len(cumulative) - 1)
    return torch.minimum(at, last).squeeze(-1)
