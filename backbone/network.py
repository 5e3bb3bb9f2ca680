"""Network: a decoder of embeddings, blocks of attention and gated feed-forward, and logits.

Attention itself is handed in, so one network serves training (plain causal), the cloud engine
(paged cache), the edge (quantized ring) and quantization (block by block).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbone.attention import Attend, soft_capped
from backbone.config import NetworkConfig
from backbone.experts import Experts
from backbone.rotary import attention_factor, cos_sin, inverse_frequencies, rotate


def activation_of(config: NetworkConfig) -> Callable[[Tensor], Tensor]:
    """Return the non-linearity of a gated feed-forward."""
    return functional.silu if config.activation == "silu" else _gelu_tanh


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32.

    The weight in force is the stored one plus `offset`; where there is an offset (Gemma), the
    product is made in float32 too.
    """

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), 1.0 - offset))
        self.eps = eps
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.offset:
            return (scaled * (self.offset + self.weight.float())).to(x.dtype)
        return self.weight * scaled.to(x.dtype)


class Attention(nn.Module):
    """Projections and rotary embedding around the attention that the caller hands in."""

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        # Both queries and keys would carry yarn's factor; a product needs it only once, squared.
        self.sharpness = attention_factor(config) ** 2 * config.query_scale
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm: nn.Module = _norm(config, config.head_dim)
            self.k_norm: nn.Module = _norm(config, config.head_dim)
        else:
            self.q_norm = nn.Identity()
            self.k_norm = nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        q = self.q_proj(x).unflatten(-1, (-1, self.head_dim))  # [..., heads, head_dim]
        k = self.k_proj(x).unflatten(-1, (-1, self.head_dim))  # [..., kv_heads, head_dim]
        v = self.v_proj(x).unflatten(-1, (-1, self.head_dim))
        q = rotate(self.q_norm(q), cos, sin)
        if self.sharpness != 1.0:
            q = q * self.sharpness
        k = rotate(self.k_norm(k), cos, sin)
        return cast(Tensor, self.o_proj(attend(self.layer, q, k, v).flatten(-2)))


class FeedForward(nn.Module):
    """Gated feed-forward (Shazeer, arXiv 2002.05202), by SiLU or, in Gemma, by GELU."""

    def __init__(self, config: NetworkConfig, intermediate_size: int | None = None) -> None:
        super().__init__()
        inner = intermediate_size or config.intermediate_size
        self.activation = activation_of(config)
        self.gate_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.down_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x)))


class DecoderLayer(nn.Module):
    """One decoder layer: a norm before attention and feed-forward, in Gemma one behind each, too.

    Names are Hugging Face's: post_attention_layernorm stands behind attention only in Gemma.
    """

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config, config.hidden_size)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = _norm(config, config.hidden_size)
        self.mlp: nn.Module = _feed_forward(config, layer)
        self.sandwich = config.sandwich_norms
        if self.sandwich:
            self.pre_feedforward_layernorm = _norm(config, config.hidden_size)
            self.post_feedforward_layernorm = _norm(config, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        return self.fed(self.attended(x, cos, sin, attend))

    def attended(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """Return x with what attention adds to it."""
        found = self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return cast(Tensor, x + (self.post_attention_layernorm(found) if self.sandwich else found))

    def fed(self, x: Tensor) -> Tensor:
        """Return x with what the feed-forward adds to it."""
        norm = self.pre_feedforward_layernorm if self.sandwich else self.post_attention_layernorm
        return self.with_feed(x, self.mlp(norm(x)))

    def with_feed(self, x: Tensor, made: Tensor) -> Tensor:
        """Return x with what the feed-forward made of it."""
        return x + (self.post_feedforward_layernorm(made) if self.sandwich else made)


def _norm(config: NetworkConfig, size: int) -> RMSNorm:
    return RMSNorm(size, config.rms_norm_eps, config.norm_offset)


def _feed_forward(config: NetworkConfig, layer: int) -> nn.Module:
    if not config.has_experts(layer):
        return FeedForward(config)
    return Experts(
        lambda: FeedForward(config, config.moe_intermediate_size),
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        norm_topk_prob=config.norm_topk_prob,
    )


class Network(nn.Module):
    """A decoder of one of the families in families.py; parameter names as in Hugging Face."""

    inverse: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            DecoderLayer(config, i) for i in range(config.num_hidden_layers)
        )
        self.norm = _norm(config, config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.register_buffer("inverse", inverse_frequencies(config), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return hidden states [..., hidden_size] for int tokens and positions [...]."""
        x = embedded(self.embed_tokens(tokens), self.config)
        rotations = cos_sin(self.inverse, positions)
        for layer, block in enumerate(self.layers):
            x = block(x, *rotations[self.config.rope_base(layer)], attend)
        return cast(Tensor, self.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., vocab_size], in float32 whatever the network's own dtype."""
        return soft_capped(self.lm_head(hidden).float(), self.config.final_logit_softcapping)


def embedded(rows: Tensor, config: NetworkConfig) -> Tensor:
    """Return what the first layer is fed for rows [..., hidden] of the embedding."""
    if config.embedding_scale == 1.0:
        return rows
    # Gemma's scale has the precision of the rows: in bfloat16, 55.5 for 55.4256.
    return rows * float(torch.tensor(config.embedding_scale).to(rows.dtype))
