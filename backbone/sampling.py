"""How the next token is chosen, many sequences at once, without waiting for the device.

A sequence's choices depend on its own settings and seed alone, never on its neighbours: every
one draws its own uniform number and inverts its own cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


_Draw = Callable[[Tensor, list[Sampler]], Tensor]


def choose(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Return one token per row of float32 logits [rows, vocab]: int64 [rows], same device.

    Filters apply in Hugging Face's order: penalty, temperature, top_k, top_p, min_p.
    """
    logits = _penalised(logits, samplers)
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


def _penalised(logits: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (Keskar, arXiv 1909.05858)."""
    if all(sampler.seen is None for sampler in samplers):
        return logits
    logits = logits.clone()
    for row, sampler in zip(logits, samplers, strict=True):
        if sampler.seen is not None:
            penalty = sampler.values.repetition_penalty
            scaled = torch.where(row > 0, row / penalty, row * penalty)
            row.copy_(torch.where(sampler.seen.to(row.device), scaled, row))
    return logits


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
