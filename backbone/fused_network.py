"""The fused network: the reference network with fewer, larger operators.

Query, key and value are one product, gate and up another; the rotary angles are looked up; no
module is called on the way. A tiny model's step is mostly the cost of starting operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from backbone.attention import Attend, soft_capped
from backbone.experts import Experts, mix, mix_unasked, route
from backbone.network import (
    Attention,
    DecoderLayer,
    FeedForward,
    Network,
    RMSNorm,
    activation_of,
    embedded,
)
from backbone.rotary import attention_factor, cos_sin


@dataclass(frozen=True)
class Dense:
    gate_up: Tensor  # [2 intermediate, hidden]
    down: Tensor


@dataclass(frozen=True)
class Sparse:
    router: Tensor  # [experts, hidden]
    gate_up: Tensor  # [experts, 2 intermediate, hidden]
    down: Tensor  # [experts, hidden, intermediate]
    experts: list[Dense]  # the same weights, one by one


@dataclass(frozen=True)
class FusedLayer:
    input_norm: Tensor
    qkv: Tensor  # [(heads + 2 kv_heads) * dim, hidden]
    qkv_bias: Tensor | None
    qk_norm: Tensor | None  # [heads + kv_heads, dim]
    output: Tensor
    output_bias: Tensor | None
    after_attention: Tensor | None  # norms that only Gemma has
    before_feed: Tensor
    feed: Dense | Sparse
    after_feed: Tensor | None


class FusedNetwork:
    """Fused network: a Network's weights, whose separate projections it takes over and frees."""

    def __init__(
        self,
        network: Network,
        max_model_len: int,
        *,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
        unasked_rows: int = 0,
    ) -> None:
        """`all_reduce` joins the partial results of several processes, each with a share of layers.

        Of a mixture, steps of at most `unasked_rows` tokens never wait for the device to learn
        which experts are wanted.
        """
        self._all_reduce = all_reduce
        self._unasked_rows = unasked_rows
        config = network.config
        self.config = config
        self.inverse = network.inverse
        self._eps = config.rms_norm_eps
        self._heads = (config.num_attention_heads, config.num_key_value_heads)
        self._layers = [_fuse(cast(DecoderLayer, block)) for block in network.layers]
        self.embedding = network.embed_tokens.weight
        self._norm = _weight(network.norm)
        self._head = network.lm_head.weight
        self._activation = activation_of(config)
        self._bases = [config.rope_base(layer) for layer in range(config.num_hidden_layers)]
        self.angles = _angles(network, max_model_len)

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Return hidden states [tokens, hidden] for int tokens and positions [tokens]."""
        x = embedded(functional.embedding(tokens, self.embedding), self.config)
        # By base, cos and sin [tokens, 1, dim].
        rotations = [table.index_select(0, positions).unbind(1) for table in self.angles]
        for i, layer in enumerate(self._layers):
            cos, sin = rotations[self._bases[i]]
            x = x + self._attention(i, layer, x, cos, sin, attend)
            x = x + self._feed_forward(layer, x)
        return self._normed(x, self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [rows, vocab_size] of hidden states [rows, hidden]."""
        found = product(hidden, self._head).float()
        return soft_capped(found, self.config.final_logit_softcapping)

    def _attention(
        self, i: int, layer: FusedLayer, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend
    ) -> Tensor:
        num_q, num_kv = self._heads
        dim = self.config.head_dim
        h = self._normed(x, layer.input_norm)
        qkv = product(h, layer.qkv, layer.qkv_bias)
        qkv = qkv.view(-1, num_q + 2 * num_kv, dim)  # [tokens, heads + 2 kv_heads, dim]
        qk = qkv[:, : num_q + num_kv]
        if layer.qk_norm is not None:
            normed = functional.rms_norm(qk.to(layer.qk_norm.dtype), (dim,), None, self._eps)
            qk = (normed * layer.qk_norm).to(x.dtype)
        qk = torch.addcmul(qk * cos, qk.roll(dim // 2, -1), sin)
        q = qk[:, :num_q]
        if self.config.query_scale != 1.0:
            q = q * self.config.query_scale
        out = attend(i, q, qk[:, num_q:], qkv[:, num_q + num_kv :])
        out = self._whole(product(out.flatten(1), layer.output, layer.output_bias))
        return out if layer.after_attention is None else self._normed(out, layer.after_attention)

    def _feed_forward(self, layer: FusedLayer, x: Tensor) -> Tensor:
        h = self._normed(x, layer.before_feed)
        if isinstance(layer.feed, Dense):
            made = self._dense(layer.feed, h)
        else:
            made = self._sparse(layer.feed, h)
        made = self._whole(made)
        return made if layer.after_feed is None else self._normed(made, layer.after_feed)

    def _dense(self, feed: Dense, x: Tensor) -> Tensor:
        gate, up = product(x, feed.gate_up).chunk(2, -1)
        return product(self._activation(gate).mul_(up), feed.down)

    def _sparse(self, feed: Sparse, x: Tensor) -> Tensor:
        weights, chosen = route(
            product(x, feed.router),
            self.config.num_experts_per_tok,
            normalized=self.config.norm_topk_prob,
            dtype=x.dtype,
        )
        if len(x) <= self._unasked_rows:
            return mix_unasked(x, weights, chosen, feed.gate_up, feed.down, self._activation)
        return mix(x, weights, chosen, lambda number: partial(self._dense, feed.experts[number]))

    def _whole(self, partial: Tensor) -> Tensor:
        return partial if self._all_reduce is None else self._all_reduce(partial)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        if len(x) == 1 and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32:
            return _normed_row(x, weight, self._eps)
        if weight.dtype == x.dtype:
            return functional.rms_norm(x, weight.shape, weight, self._eps)
        return functional.rms_norm(x.float(), weight.shape, weight, self._eps).to(x.dtype)


def _normed_row(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    # On a CPU rms_norm is seven operators; for one row, half the time goes by without them.
    square = float(torch.dot(x[0], x[0])) / x.shape[-1]
    scale: float = max(square + eps, 1e-30) ** -0.5
    return (x * scale).mul_(weight)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return rows [rows, in] times a weight [out, in] as it lies, and a bias added."""
    # MKL takes twice the time for one row as a matrix as for the same row as a vector, where the
    # weight is large (measured: [4096, 768] in float32, two threads); so does oneDNN in bfloat16
    # ([49152, 576], one thread).
    if len(x) > 1 or bias is not None or x.device.type != "cpu":
        return functional.linear(x, weight, bias)
    return torch.mv(weight, x[0]).unsqueeze(0)


def _angles(network: Network, max_model_len: int) -> list[Tensor]:
    """Return for each base the cos and signed sin of every position, [len, 2, 1, dim]."""
    config = network.config
    positions = torch.arange(max_model_len, device=network.inverse.device)
    half = config.head_dim // 2
    tables = []
    for cos, sin in cos_sin(network.inverse, positions):  # [len, 1, dim]
        # The half that is subtracted carries its sign: x * cos + swapped x * sin.
        signed = torch.cat((-sin[..., :half], sin[..., half:]), -1)
        table = torch.stack((cos, signed), 1) * attention_factor(config)
        tables.append(table.to(network.embed_tokens.weight.dtype))
    return tables


def _fuse(block: DecoderLayer) -> FusedLayer:
    attention = block.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [cast("Tensor | None", p.bias) for p in projections]
    after, inner = block.post_attention_layernorm, block.post_attention_layernorm
    if block.sandwich:
        inner = block.pre_feedforward_layernorm
    layer = FusedLayer(
        input_norm=_weight(block.input_layernorm),
        qkv=torch.cat([p.weight for p in projections]),
        qkv_bias=None if biases[0] is None else torch.cat(cast("list[Tensor]", biases)),
        qk_norm=_head_norms(attention),
        output=attention.o_proj.weight,
        output_bias=attention.o_proj.bias,
        after_attention=_weight(after) if block.sandwich else None,
        before_feed=_weight(inner),
        feed=_feed(block.mlp),
        after_feed=_weight(block.post_feedforward_layernorm) if block.sandwich else None,
    )
    # One layer at a time, so that memory never holds the weights twice.
    free(*projections)
    return layer


def _feed(mlp: nn.Module) -> Dense | Sparse:
    if isinstance(mlp, Experts):
        return _sparse(mlp)
    return _dense(mlp)


@torch.no_grad()
def _sparse(mlp: Experts) -> Sparse:
    experts = [cast(FeedForward, expert) for expert in mlp.experts]
    inner, hidden = experts[0].gate_proj.weight.shape
    gate_up = experts[0].gate_proj.weight.new_empty(len(experts), 2 * inner, hidden)
    down = gate_up.new_empty(len(experts), hidden, inner)
    for number, expert in enumerate(experts):
        gate_up[number, :inner] = expert.gate_proj.weight
        gate_up[number, inner:] = expert.up_proj.weight
        down[number] = expert.down_proj.weight
        # One at a time, so that memory never holds a layer twice.
        free(expert.gate_proj, expert.up_proj, expert.down_proj)
    alone = [Dense(*both) for both in zip(gate_up, down, strict=True)]
    return Sparse(mlp.gate.weight, gate_up, down, alone)


def _dense(mlp: nn.Module) -> Dense:
    assert isinstance(mlp, FeedForward), "only plain projections are fused"
    fused = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight))
    free(mlp.gate_proj, mlp.up_proj)
    return Dense(fused, mlp.down_proj.weight)


def free(*parts: nn.Linear) -> None:
    for part in parts:
        part.weight = nn.Parameter(torch.empty(0), requires_grad=False)


def _weight(norm: RMSNorm) -> Tensor:
    """Return a norm's weight in force; float32 where there is an offset, as in transformers."""
    return norm.offset + norm.weight.float() if norm.offset else norm.weight


def _head_norms(attention: Attention) -> Tensor | None:
    if not isinstance(attention.q_norm, RMSNorm) or not isinstance(attention.k_norm, RMSNorm):
        return None
    num_q = attention.q_proj.out_features // attention.head_dim
    num_kv = attention.k_proj.out_features // attention.head_dim
    q, k = _weight(attention.q_norm), _weight(attention.k_norm)
    return torch.cat((q.expand(num_q, -1), k.expand(num_kv, -1)))
