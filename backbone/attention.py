"""Causal attention over whole sequences: the plain reference of all other attention."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from backbone.config import NetworkConfig

# (layer, q [..., heads, head_dim], k and v [..., kv_heads, head_dim]) -> [..., heads, head_dim]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]

_MOST_SCORES = 1 << 24  # held at once where soft-capping keeps torch's kernels out


def causal_attention(config: NetworkConfig) -> Attend:
    """Return attention over whole sequences, windows and soft-capping of each layer as configured.

    The returned function takes q [..., len, heads, head_dim], and k and v likewise.
    """

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length, window = q.shape[-3], config.window(layer)
        mask = None
        if window is not None and window < length:
            at = torch.arange(length, device=q.device)
            mask = visible(at.unsqueeze(1), at, window, config.num_sinks)
        out = dot_product(
            q.transpose(-3, -2),  # [..., heads, len, head_dim]
            k.transpose(-3, -2),
            v.transpose(-3, -2),
            mask=mask,
            is_causal=mask is None,
            soft_cap=config.attn_logit_softcapping,
        )
        return out.transpose(-3, -2)

    return attend


def visible(queries: Tensor, keys: Tensor, window: int | None, num_sinks: int = 0) -> Tensor:
    """Return whether queries at these positions see keys at those; broadcasts.

    A window counts the query itself; the first `num_sinks` keys are always seen (attention sinks,
    arXiv 2309.17453).
    """
    causal = keys <= queries
    if window is None:
        return causal
    return causal & ((keys > queries - window) | (keys < num_sinks))


def dot_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    soft_cap: float | None = None,
) -> Tensor:
    """Return attention of q [..., heads, new, dim] over k and v [..., kv_heads, keys, dim].

    The scores are divided by sqrt(dim). `mask` is bool [new, keys]; `is_causal` needs as many keys
    as queries. With `soft_cap`, scores become cap * tanh(score / cap) first (Gemma 2, arXiv
    2408.00118, section 2), which torch's fused kernel cannot do.
    """
    if soft_cap is None:
        if q.dim() == 3:
            # Without a batch dimension torch takes no fused kernel, and holds all scores.
            whole = dot_product(q[None], k[None], v[None], mask=mask, is_causal=is_causal)
            return whole[0]
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, enable_gqa=True
        )
    if is_causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    # A piece of the queries at a time: all scores at once would take memory with the square.
    piece = max(1, _MOST_SCORES // (q.shape[:-2].numel() * k.shape[-2]))
    parts = []
    for start in range(0, q.shape[-2], piece):
        rows = slice(start, start + piece)
        seen = None if mask is None else mask[rows]
        parts.append(_capped_product(q[..., rows, :], k, v, seen, soft_cap))
    return torch.cat(parts, -2)


def _capped_product(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, cap: float) -> Tensor:
    kv_heads = k.shape[-3]
    # [..., kv_heads, group, new, dim]
    grouped = q.reshape(*q.shape[:-3], kv_heads, -1, *q.shape[-2:])
    scores = grouped @ k.unsqueeze(-3).transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = soft_capped(scores.float(), cap)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, -1).to(v.dtype)
    return (weights @ v.unsqueeze(-3)).flatten(-4, -3)


def soft_capped(x: Tensor, cap: float | None) -> Tensor:
    """Return x bent to lie within -cap and cap; x itself where there is no cap."""
    return x if cap is None else cap * torch.tanh(x / cap)
