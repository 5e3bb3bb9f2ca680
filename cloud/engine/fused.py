"""The same network with fewer, larger operators.

Query, key and value are one product, gate and up another; the rotary angles are looked up; no
module is called on the way. A tiny model's step is mostly the cost of starting operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbone.network import Attend, Attention, Block, Network, RMSNorm
from backbone.rotary import attention_factor, cos_sin


@dataclass(frozen=True)
class _Layer:
    input_norm: Tensor
    qkv: Tensor  # [(heads + 2 kv_heads) * dim, hidden]
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # [heads + kv_heads, dim]
    output: Tensor
    output_bias: Tensor | None
    after_norm: Tensor
    gate_up: Tensor  # [2 intermediate, hidden]
    down: Tensor


class FusedNetwork:
    """Runs a Network's weights, whose separate projections it takes over and frees."""

    def __init__(
        self,
        network: Network,
        max_model_len: int,
        *,
        add_up: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """`add_up` joins the partial results of several processes, each with a share of layers."""
        self._add_up = add_up
        config = network.config
        self.config = config
        self.inverse = network.inverse
        self._eps = config.rms_norm_eps
        self._heads = (config.num_attention_heads, config.num_key_value_heads)
        self._layers = [_fuse(cast(Block, block)) for block in network.layers]
        self._embedding = network.embed_tokens.weight
        self._norm = network.norm.weight
        self._head = network.lm_head.weight
        positions = torch.arange(max_model_len, device=network.inverse.device)
        cos, sin = cos_sin(network.inverse, positions)  # [len, 1, dim]
        # The half that is subtracted carries its sign: x * cos + swapped x * sin.
        half = config.head_dim // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        # [len, 2, 1, dim]: one lookup a step.
        angles = torch.stack((cos, signed), 1) * attention_factor(config)
        self._angles = angles.to(self._embedding.dtype)

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return hidden states [tokens, hidden] for int tokens and positions [tokens]."""
        x = functional.embedding(tokens, self._embedding)
        cos, sin = self._angles.index_select(0, positions).unbind(1)  # [tokens, 1, dim]
        for i, layer in enumerate(self._layers):
            x = self._layer(i, layer, x, cos, sin, attend)
        return self._normed(x, self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., vocab_size]."""
        return functional.linear(hidden, self._head).float()

    def _layer(
        self, i: int, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend
    ) -> Tensor:
        num_q, num_kv = self._heads
        dim = self.config.head_dim
        h = self._normed(x, layer.input_norm)
        qkv = _product(h, layer.qkv, layer.qkv_bias)
        qkv = qkv.view(-1, num_q + 2 * num_kv, dim)  # [tokens, heads + 2 kv_heads, dim]
        qk = qkv[:, : num_q + num_kv]
        if layer.qk_norm is not None:
            qk = functional.rms_norm(qk, (dim,), None, self._eps) * layer.qk_norm
        qk = torch.addcmul(qk * cos, qk.roll(dim // 2, -1), sin)
        out = attend(i, qk[:, :num_q], qk[:, num_q:], qkv[:, num_q + num_kv :])
        x = x + self._whole(_product(out.flatten(1), layer.output, layer.output_bias))
        gate, up = _product(self._normed(x, layer.after_norm), layer.gate_up).chunk(2, -1)
        return x + self._whole(_product(functional.silu(gate) * up, layer.down))

    def _whole(self, partial: Tensor) -> Tensor:
        return partial if self._add_up is None else self._add_up(partial)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._eps)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # MKL takes twice the time for one row as a matrix as for the same row as a vector, where the
    # weight is large (measured: [4096, 768] in float32, two threads).
    if len(x) > 1 or bias is not None or x.device.type != "cpu":
        return functional.linear(x, weight, bias)
    return torch.mv(weight, x[0]).unsqueeze(0)


def _fuse(block: Block) -> _Layer:
    attention, mlp = block.self_attn, block.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [cast("Tensor | None", p.bias) for p in projections]
    layer = _Layer(
        input_norm=block.input_layernorm.weight,
        qkv=torch.cat([p.weight for p in projections]),
        qkv_bias=None if biases[0] is None else torch.cat(cast("list[Tensor]", biases)),
        qk_norm=_head_norms(attention),
        output=attention.o_proj.weight,
        output_bias=attention.o_proj.bias,
        after_norm=block.post_attention_layernorm.weight,
        gate_up=torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)),
        down=mlp.down_proj.weight,
    )
    # One layer at a time, so that memory never holds the weights twice.
    for part in (*projections, mlp.gate_proj, mlp.up_proj):
        part.weight = nn.Parameter(torch.empty(0), requires_grad=False)
    return layer


def _head_norms(attention: Attention) -> Tensor | None:
    if not isinstance(attention.q_norm, RMSNorm) or not isinstance(attention.k_norm, RMSNorm):
        return None
    num_q = attention.q_proj.out_features // attention.head_dim
    num_kv = attention.k_proj.out_features // attention.head_dim
    q, k = attention.q_norm.weight, attention.k_norm.weight
    return torch.cat((q.expand(num_q, -1), k.expand(num_kv, -1)))
