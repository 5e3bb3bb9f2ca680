"""The network on a CPU: fewer operators, and weights packed for few rows, in float32 or bfloat16.

Weights are laid out anew for few rows, the residual is added by the product before it, a norm is
five operators instead of eight, and a rotation is one: the two channels that turn together lie
together, as one complex number. Queries and keys agree on that order, so their products are the
same. All but the products and the attention is in float32, whatever the weights are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from backbone.attention import Attend, soft_capped
from backbone.config import NetworkConfig
from backbone.fused_network import Dense, FusedLayer, FusedNetwork, free, product
from backbone.network import DecoderLayer, FeedForward, Network, embedded
from backbone.packed_linear import PackedLinear, pack_linear, packs_bfloat16
from backbone.rotary import attention_factor, cos_sin

# Rows for which MKL is slow with a weight as it lies, and quick with the two changed over.
_TRANSPOSED_ROWS = range(5, 16)


@dataclass(frozen=True)
class _PackedLayer:
    input_norm: Tensor
    qkv: PackedLinear
    qk_norm: Tensor | None  # [heads + kv_heads, dim]
    output: PackedLinear
    after_attention: Tensor | None
    before_feed: Tensor
    gate_up: PackedLinear
    down: PackedLinear
    after_feed: Tensor | None


class CpuNetwork(FusedNetwork):
    """A fused network on a CPU; it takes over the weights of a network without experts."""

    @torch.no_grad()
    def __init__(
        self,
        network: Network,
        max_model_len: int,
        *,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
        num_rows: int = 16,
    ) -> None:
        """With a `max_model_len` of 0, attention is handed queries and keys before their rotation,
        in the order of Hugging Face's halves. Weights are laid out for `num_rows` at once.
        """
        super().__init__(network, max_model_len, all_reduce=all_reduce)
        self._turns = max_model_len > 0
        self.angles = _rotations(network, max_model_len)
        # What the tables hold otherwise, of queries and keys together.
        self._sharpness = 1.0 if self._turns else attention_factor(network.config) ** 2
        self._least = torch.tensor(self._eps)
        self._kept_dtype = self.embedding.dtype  # of queries, keys and values
        self._norm = self._norm.float()
        tied = network.lm_head.weight is network.embed_tokens.weight
        pack = partial(pack_linear, num_rows=num_rows)
        self._own_head = None if tied else pack(self._head)
        self.packed_layers: list[_PackedLayer] = []
        for block in network.layers:
            # One layer at a time, so that memory never holds the weights twice.
            layer = self._layers.pop(0)
            self.packed_layers.append(_packed(layer, self.config, pack, paired=self._turns))
            _free_rest(cast(DecoderLayer, block))
        if not tied:
            self._head = torch.empty(0)
            free(network.lm_head)

    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """See FusedNetwork."""
        x = embedded(functional.embedding(tokens, self.embedding), self.config).float()
        # By base, complex [tokens, 1, dim / 2].
        turns = [table.index_select(0, positions) for table in self.angles if self._turns]
        for i, layer in enumerate(self.packed_layers):
            x = self._attended(i, layer, x, turns[self._bases[i]] if turns else None, attend)
            x = self._fed(layer, x)
        return self._normed(x, self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """See FusedNetwork."""
        if self._own_head is not None:
            found = self._own_head(hidden)
        elif self._head.dtype != hidden.dtype:
            found = product(hidden.to(self._head.dtype), self._head).float()
        elif len(hidden) in _TRANSPOSED_ROWS:
            found = torch.mm(self._head, hidden.t()).t().contiguous()
        else:
            return super().logits(hidden)
        return soft_capped(found, self.config.final_logit_softcapping)

    def _attended(
        self, i: int, layer: _PackedLayer, x: Tensor, rotation: Tensor | None, attend: Attend
    ) -> Tensor:
        num_q, num_kv = self._heads
        qkv = layer.qkv(self._normed(x, layer.input_norm))
        # [tokens, heads + 2 kv_heads, dim]
        qkv = qkv.view(-1, num_q + 2 * num_kv, self.config.head_dim)
        qk = qkv[:, : num_q + num_kv]
        if layer.qk_norm is not None:
            qk = self._normed(qk, layer.qk_norm)
        if rotation is not None:
            qk = (qk.view(torch.complex64) * rotation).view(torch.float32)
        q, scale = qk[:, :num_q], self.config.query_scale * self._sharpness
        if scale != 1.0:
            q = q * scale
        k, v, kept = qk[:, num_q:], qkv[:, num_q + num_kv :], self._kept_dtype
        if kept != torch.float32:
            q, k, v = q.to(kept), k.to(kept), v.to(kept)
        out = attend(i, q, k, v).float()
        return self._added(x, out.flatten(1), layer.output, layer.after_attention)

    def _fed(self, layer: _PackedLayer, x: Tensor) -> Tensor:
        gate, up = layer.gate_up(self._normed(x, layer.before_feed)).chunk(2, -1)
        rows = self._activation(gate).mul_(up)
        return self._added(x, rows, layer.down, layer.after_feed)

    def _added(self, x: Tensor, rows: Tensor, linear: PackedLinear, norm: Tensor | None) -> Tensor:
        """Return x with the product of rows added, which may be one of several processes' parts."""
        if norm is None and self._all_reduce is None:
            return linear.add_to(x, rows)
        made = self._whole(linear(rows))
        return x + (made if norm is None else self._normed(made, norm))

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = torch.addcmul(self._least, size, size, value=1 / x.shape[-1]).rsqrt_()
        return (x * scale).mul_(weight)


def fits_cpu_network(config: NetworkConfig, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether CpuNetwork can run a network: plain feed-forwards on a CPU, in a type it packs."""
    packs = dtype == torch.float32 or (dtype == torch.bfloat16 and packs_bfloat16())
    return device.type == "cpu" and packs and not config.num_experts


def _rotations(network: Network, max_model_len: int) -> list[Tensor]:
    """Return for each base every position's rotations, complex64 [len, 1, dim / 2]."""
    config = network.config
    half = config.head_dim // 2
    tables = []
    for cos, sin in cos_sin(network.inverse, torch.arange(max_model_len)):  # [len, 1, dim]
        rotations = torch.complex(cos[..., :half].contiguous(), sin[..., :half].contiguous())
        tables.append(rotations * attention_factor(config))
    return tables


def _packed(
    layer: FusedLayer, config: NetworkConfig, pack: Callable[..., PackedLinear], *, paired: bool
) -> _PackedLayer:
    assert isinstance(layer.feed, Dense), "a mixture of experts stays fused"
    dim = config.head_dim
    values, qk_norm = config.num_key_value_heads * dim, layer.qk_norm

    def ordered(rows: Tensor, num_kept: int) -> Tensor:
        return _paired(rows, dim, num_kept) if paired else rows

    return _PackedLayer(
        input_norm=layer.input_norm.float(),
        qkv=pack(
            ordered(layer.qkv, values),
            None if layer.qkv_bias is None else ordered(layer.qkv_bias, values),
        ),
        qk_norm=None if qk_norm is None else ordered(qk_norm.float().flatten(), 0).view_as(qk_norm),
        output=pack(layer.output, layer.output_bias),
        after_attention=_float(layer.after_attention),
        before_feed=layer.before_feed.float(),
        gate_up=pack(layer.feed.gate_up),
        down=pack(layer.feed.down),
        after_feed=_float(layer.after_feed),
    )


def _float(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.float()


def _paired(rows: Tensor, dim: int, num_kept: int) -> Tensor:
    """Return rows [heads * dim, ...] with channels i and i + dim / 2 of each head side by side.

    The last `num_kept` rows, those of the values, stay as they are.
    """
    end = len(rows) - num_kept
    turned, kept = rows[:end], rows[end:]
    halves = turned.reshape(-1, 2, dim // 2, *rows.shape[1:])
    return torch.cat((halves.transpose(1, 2).reshape(turned.shape), kept))


def _free_rest(block: DecoderLayer) -> None:
    """Free the projections that a fused layer shares with its block."""
    free(block.self_attn.o_proj, cast(FeedForward, block.mlp).down_proj)
