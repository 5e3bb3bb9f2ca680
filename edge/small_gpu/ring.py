"""The keys and values of one conversation, in memory that never grows.

The first tokens (attention sinks; Xiao et al., arXiv 2309.17453) and the newest ones stay in full
precision. Between them lie blocks of few bits in a ring: when it is full, the oldest block makes
room. A token's position is its place among those that are kept, told anew at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from backbone.config import NetworkConfig
from backbone.rotary import cos_sin, inverse_frequencies, rotate
from edge.small_gpu.store import BlockStore


class Ring:
    """Sinks, a ring of blocks and a residual; `attend` is what a Network is handed.

    The network must be run at position 0 throughout: it then hands over keys and queries before
    their rotation, and the ring rotates them.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        limit: int,
        bits: tuple[int, int],
        block: int = 64,
        residual: int = 64,
        num_sinks: int = 4,
        chunk: int = 64,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Make room for `limit` tokens, of which `chunk` may come at once."""
        least = num_sinks + residual + block + chunk
        assert limit >= least, f"a ring of {limit} tokens is too small: these parts need {least}"
        device = torch.device(device)
        self.block, self.residual, self.num_sinks = block, residual, num_sinks
        self.limit = limit
        self.num_blocks = -(-(limit - num_sinks - residual) // block)
        self.chunk = chunk
        self._layers = config.num_hidden_layers
        self._windows = [config.window(layer) for layer in range(config.num_hidden_layers)]
        heads = (config.num_key_value_heads, config.head_dim)
        self._keys, self._values = (
            BlockStore(
                (block, *heads),
                num_layers=self._layers,
                num_blocks=self.num_blocks,
                bits=width,
                per_channel=per_channel,
                device=device,
                dtype=dtype,
            )
            for width, per_channel in zip(bits, (True, False), strict=True)
        )
        # Sinks first, then the residual, then the chunk that is being read: [2, ...] keys, values.
        newest = num_sinks + residual + block + chunk
        self._plain = torch.zeros(2, self._layers, newest, *heads, device=device, dtype=dtype)
        positions = torch.arange(limit, device=device)
        self._cos, self._sin = cos_sin(inverse_frequencies(config).to(device), positions)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.num_plain = 0  # sinks and residual
        self.num_stored = 0  # blocks in the ring
        self.dropped = 0  # tokens that made room
        self._head = 0  # where the oldest block lies

    @property
    def used(self) -> int:
        """Return how many tokens are held."""
        return self.num_plain + self.num_stored * self.block

    @property
    def num_bytes(self) -> int:
        """Return what is allocated for keys and values."""
        return self._keys.num_bytes + self._values.num_bytes + self._plain.nbytes

    @property
    def bytes_per_token(self) -> float:
        """Return what a token takes in a block, in all layers; the newest take full precision."""
        num_tokens = max(1, self.num_blocks * self.block)
        return (self._keys.num_bytes + self._values.num_bytes) / num_tokens

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from new tokens to all that is held and to each other, causally.

        q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], not rotated; at most
        `chunk` tokens. They are held from `advance` on.
        """
        start, stop = self.num_plain, self.num_plain + q.shape[0]
        self._plain[0, layer, start:stop] = k
        self._plain[1, layer, start:stop] = v
        keys = self._gathered(self._keys, self._plain[0, layer, :stop], layer)
        values = self._gathered(self._values, self._plain[1, layer, :stop], layer)
        first = keys.shape[0] - q.shape[0]
        q = rotate(q, self._cos[first : keys.shape[0]], self._sin[first : keys.shape[0]])
        keys = rotate(keys, self._cos[: keys.shape[0]], self._sin[: keys.shape[0]])
        out = functional.scaled_dot_product_attention(
            q.transpose(0, 1).unsqueeze(0),  # [1, heads, tokens, head_dim]
            keys.transpose(0, 1).unsqueeze(0),
            values.transpose(0, 1).unsqueeze(0),
            attn_mask=self._mask(q.shape[0], keys.shape[0], self._windows[layer]),
            enable_gqa=True,
        )
        return out[0].transpose(0, 1)

    def make_room(self, num_tokens: int) -> None:
        """Drop the oldest blocks until so many more tokens fit; at most a chunk may be asked."""
        assert num_tokens <= self.chunk, f"{num_tokens} tokens are more than a chunk"
        while self.used + num_tokens > self.limit:
            self._head = (self._head + 1) % self.num_blocks
            self.num_stored -= 1
            self.dropped += self.block

    def advance(self, num_tokens: int) -> None:
        """Hold the tokens that were attended from; what is old moves into the ring."""
        self.num_plain += num_tokens
        while self.num_plain - self.num_sinks >= self.residual + self.block:
            self._retire()

    def rewind(self, num_tokens: int) -> bool:
        """Forget the newest tokens; False where they already lie in blocks."""
        least = self.num_sinks if self.num_stored else 0
        if self.num_plain - num_tokens < least:
            return False
        self.num_plain -= num_tokens
        return True

    def _gathered(self, store: BlockStore, plain: Tensor, layer: int) -> Tensor:
        if self.num_stored == 0:
            return plain
        if self._head + self.num_stored <= self.num_blocks:
            places: slice | Tensor = slice(self._head, self._head + self.num_stored)
        else:
            order = torch.arange(self.num_stored, device=plain.device) + self._head
            places = order % self.num_blocks
        blocks = store.take(layer, places)
        return torch.cat((plain[: self.num_sinks], blocks, plain[self.num_sinks :]))

    def _mask(self, num_new: int, num_all: int, window: int | None) -> Tensor | None:
        """Return which keys each new token sees, [new, all]; None where it sees all."""
        if num_new == 1 and (window is None or num_all <= window):
            return None
        device = self._cos.device
        own = torch.arange(num_all - num_new, num_all, device=device).unsqueeze(1)
        other = torch.arange(num_all, device=device)
        seen = other <= own
        return seen if window is None else seen & (other > own - window)

    def _retire(self) -> None:
        """Move the oldest block of the residual into the ring."""
        start, stop = self.num_sinks, self.num_sinks + self.block
        place = (self._head + self.num_stored) % self.num_blocks
        for layer in range(self._layers):
            self._keys.put(layer, place, self._plain[0, layer, start:stop])
            self._values.put(layer, place, self._plain[1, layer, start:stop])
        self.num_stored += 1
        left = self.num_plain - stop
        # A copy: the two ranges may overlap.
        self._plain[:, :, start : start + left] = self._plain[:, :, stop : self.num_plain].clone()
        self.num_plain -= self.block
