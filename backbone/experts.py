"""Mixture of experts: a router sends each token through a few of the feed-forwards.

Tokens are grouped by expert, so that each expert that is wanted at all does one product
(Shazeer et al., arXiv 1701.06538; the form is Qwen3-MoE's). The host must know who is wanted for
that. `mix_unasked` never asks: no shape hangs on what was chosen, and a CUDA graph can record it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Expert = Callable[[Tensor], Tensor]


def route(
    logits: Tensor, num_chosen: int, *, normalized: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the weights and numbers [tokens, num_chosen] of each token's experts.

    logits are the router's, [tokens, experts]; `normalized` weights add up to one.
    """
    weights, chosen = torch.softmax(logits, -1, dtype=torch.float32).topk(num_chosen, dim=-1)
    if normalized:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights.to(dtype), chosen


def mix(x: Tensor, weights: Tensor, chosen: Tensor, expert: Callable[[int], Expert]) -> Tensor:
    """Return the weighted sum of what each token's experts make of it.

    x is [tokens, hidden], weights and chosen [tokens, experts of a token]. On torch's meta device,
    where nothing is chosen, one expert takes all tokens: the most that can happen at once.
    """
    out = torch.zeros_like(x)
    order, counts = _grouped(chosen)
    tokens = order // chosen.shape[-1]
    ranked = weights.flatten().index_select(0, order).unsqueeze(-1)
    start = 0
    for number, count in counts:
        part = slice(start, start + count)
        made = expert(number)(x.index_select(0, tokens[part])) * ranked[part]
        out.index_add_(0, tokens[part], made)
        start += count
    return out


def mix_unasked(
    x: Tensor,
    weights: Tensor,
    chosen: Tensor,
    gate_up: Tensor,
    down: Tensor,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return what mix() returns, by steps that are the same whoever is chosen.

    gate_up is [experts, 2 inner, hidden], down [experts, hidden, inner]. Few tokens gather the
    weights they want, which moves those three times; more go through all experts, which moves
    all weights once, and what was not chosen is left out.
    """
    if 3 * chosen.numel() <= len(gate_up):
        return _by_token(x, weights, chosen, gate_up, down, activation)
    return _by_expert(x, weights, chosen, gate_up, down, activation)


def _by_token(
    x: Tensor,
    weights: Tensor,
    chosen: Tensor,
    gate_up: Tensor,
    down: Tensor,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    wanted = chosen.flatten()
    rows = x.unsqueeze(1).expand(-1, chosen.shape[1], -1).reshape(len(wanted), -1, 1)
    gate, up = torch.bmm(gate_up.index_select(0, wanted), rows).chunk(2, 1)  # [pairs, inner, 1]
    made = torch.bmm(down.index_select(0, wanted), activation(gate) * up)  # [pairs, hidden, 1]
    return (made.view(*chosen.shape, -1) * weights.unsqueeze(-1)).sum(1)


def _by_expert(
    x: Tensor,
    weights: Tensor,
    chosen: Tensor,
    gate_up: Tensor,
    down: Tensor,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    shares = weights.new_zeros(len(x), len(gate_up)).scatter(1, chosen, weights)
    shares = shares.T.unsqueeze(-1)  # [experts, tokens, 1]
    gate, up = torch.matmul(x, gate_up.transpose(1, 2)).chunk(2, -1)  # [experts, tokens, inner]
    # Filled rather than multiplied: what overflows in an expert that nobody chose is not told.
    kept = (activation(gate) * up * shares).masked_fill(shares == 0, 0.0)
    return torch.bmm(kept, down.transpose(1, 2)).sum(0)


def _grouped(chosen: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """Return all places of `chosen`, sorted by expert, and (expert, places) of those wanted."""
    flat = chosen.flatten()
    if flat.device.type == "meta":
        return flat, [(0, chosen.shape[0])]
    order = flat.argsort(stable=True)
    counts = flat.bincount().tolist()
    return order, [(number, count) for number, count in enumerate(counts) if count]


class Experts(nn.Module):
    """A router and its experts; names as in Hugging Face: `gate`, `experts.0.gate_proj`, ..."""

    def __init__(
        self,
        make_expert: Callable[[], nn.Module],
        *,
        hidden_size: int,
        num_experts: int,
        num_experts_per_tok: int,
        norm_topk_prob: bool,
    ) -> None:
        super().__init__()
        self.num_experts_per_tok = num_experts_per_tok
        self.norm_topk_prob = norm_topk_prob
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.experts = nn.ModuleList(make_expert() for _ in range(num_experts))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the chosen experts make of x [..., hidden]."""
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = route(
            self.gate(flat),
            self.num_experts_per_tok,
            normalized=self.norm_topk_prob,
            dtype=x.dtype,
        )
        return mix(flat, weights, chosen, lambda number: self.experts[number]).reshape(x.shape)
