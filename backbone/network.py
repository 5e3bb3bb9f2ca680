"""The decoder-only network: embeddings, blocks of attention and gated feed-forward, logits.

Attention itself is handed in, so one network serves training (plain causal), the cloud engine
(paged cache), the edge (quantized ring) and quantization (block by block).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbone.config import NetworkConfig
from backbone.rotary import attention_factor, cos_sin, inverse_frequencies, rotate

# (layer, q [..., heads, head_dim], k and v [..., kv_heads, head_dim]) -> [..., heads, head_dim]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(x.dtype)


class Attention(nn.Module):
    """Projections and rotary embedding around the attention that the caller hands in."""

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        # Both queries and keys would carry yarn's factor; a product needs it only once, squared.
        self.sharpness = attention_factor(config) ** 2
        query_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.output_bias)
        if config.qk_norm:
            self.q_norm: nn.Module = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm: nn.Module = RMSNorm(config.head_dim, config.rms_norm_eps)
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
    """SiLU-gated feed-forward (Shazeer, arXiv 2002.05202)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x)))


class Block(nn.Module):
    """One decoder layer, pre-norm."""

    def __init__(self, config: NetworkConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))


class Network(nn.Module):
    """A Llama-, Mistral-, Qwen2- or Qwen3-shaped decoder; parameter names as in Hugging Face."""

    inverse: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.register_buffer("inverse", inverse_frequencies(config), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return hidden states [..., hidden_size] for int tokens and positions [...]."""
        x = cast(Tensor, self.embed_tokens(tokens))
        cos, sin = cos_sin(self.inverse, positions)
        for block in self.layers:
            x = block(x, cos, sin, attend)
        return cast(Tensor, self.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [..., vocab_size], in float32 whatever the network's own dtype."""
        return cast(Tensor, self.lm_head(hidden)).float()


def causal_attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Plain causal attention over whole sequences: q [batch, len, heads, head_dim]."""
    out = functional.scaled_dot_product_attention(
        q.transpose(1, 2),  # [batch, heads, len, head_dim]
        k.transpose(1, 2),
        v.transpose(1, 2),
        is_causal=True,
        enable_gqa=True,
    )
    return out.transpose(1, 2)
