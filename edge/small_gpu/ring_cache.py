"""Ring cache: the KV cache of one conversation, in memory that never grows.

The first tokens (attention sinks; Xiao et al., arXiv 2309.17453) and the newest ones stay in full
precision. Between them lie blocks of few bits: when there is no more room, the oldest block goes
that holds nothing pinned. A token's position is its place among those that are kept, told anew at
every step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from backbone.attention import dot_product
from backbone.config import NetworkConfig
from backbone.fast_tensor_ops import to_device
from backbone.rotary import cos_sin, inverse_frequencies, rotate
from edge.small_gpu.block_store import BlockStore
from engine.window import Pins

Rotations = list[tuple[Tensor, Tensor]]  # of each rotary base: cos and sin of every position


@dataclass(frozen=True)
class StoredBlock:
    """Stored block: its place in the stores, and where in the stream its tokens stood."""

    place: int
    at: tuple[int, ...]

    def touches(self, pins: Pins) -> bool:
        """Return whether any of its tokens must stay."""
        return any(i < pins.num_first or pins.last_start <= i < pins.last_end for i in self.at)


class Ring:
    """Ring cache of sinks, blocks and a residual; `attend` is what a Network is handed.

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
        rotations: Rotations | None = None,
    ) -> None:
        """Make room for `limit` tokens, of which `chunk` may come at once.

        `rotations` are those of another ring of the same network and limit, to be shared.
        """
        least = num_sinks + residual + block + chunk
        assert limit >= least, f"a ring of {limit} tokens is too small: these parts need {least}"
        self.device = torch.device(device)
        self.block, self.residual, self.num_sinks = block, residual, num_sinks
        self.limit, self.chunk = limit, chunk
        self.num_blocks = -(-(limit - num_sinks - residual) // block)
        self._layers = config.num_hidden_layers
        self._windows = config.windows()
        self._bases = [config.rope_base(layer) for layer in range(self._layers)]
        self._soft_cap = config.attn_logit_softcapping
        heads = (config.num_key_value_heads, config.head_dim)
        self.keys, self.values = (
            BlockStore(
                (block, *heads),
                num_layers=self._layers,
                num_blocks=self.num_blocks,
                bits=width,
                per_channel=per_channel,
                device=self.device,
                dtype=dtype,
            )
            for width, per_channel in zip(bits, (True, False), strict=True)
        )
        # Sinks first, then the residual, then the chunk that is being read: [2, ...] keys, values.
        self.plain = torch.zeros(2, self._layers, least, *heads, device=self.device, dtype=dtype)
        self.rotations = rotations or rotations_of(config, limit, self.device)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.num_read = 0  # tokens of the stream, those that went or were skipped too
        self.blocks: list[StoredBlock] = []  # oldest first
        self.plain_at: list[int] = []  # where in the stream the plain tokens stood
        self._free = list(range(self.num_blocks))
        self.places: slice | Tensor = slice(0, 0)

    @property
    def used(self) -> int:
        """Return how many tokens are held."""
        return len(self.plain_at) + len(self.blocks) * self.block

    @property
    def dropped(self) -> int:
        """Return how many tokens of the stream are not held."""
        return self.num_read - self.used

    @property
    def num_bytes(self) -> int:
        """Return the bytes that the KV cache takes."""
        return self.keys.num_bytes + self.values.num_bytes + self.plain.nbytes

    @property
    def bytes_per_token(self) -> float:
        """Return what a token takes in a block, in all layers; the newest take full precision."""
        num_tokens = max(1, self.num_blocks * self.block)
        return (self.keys.num_bytes + self.values.num_bytes) / num_tokens

    @property
    def until_settled(self) -> int:
        """Return how many more tokens may be held before the oldest plain ones become a block."""
        return self.num_sinks + self.residual + self.block - len(self.plain_at)

    def holds(self, start: int, end: int) -> bool:
        """Return whether a range of the stream is held without holes."""
        return sum(start <= at < end for at in self._held()) == max(0, end - start)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from new tokens to all that is held and to each other, causally.

        q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], not rotated; at most
        `chunk` tokens. They are held from `advance` on.
        """
        start, stop = len(self.plain_at), len(self.plain_at) + q.shape[0]
        self.plain[0, layer, start:stop] = k
        self.plain[1, layer, start:stop] = v
        keys = self._gathered(self.keys, self.plain[0, layer, :stop], layer)
        values = self._gathered(self.values, self.plain[1, layer, :stop], layer)
        first, last = keys.shape[0] - q.shape[0], keys.shape[0]
        cos, sin = self.rotations[self._bases[layer]]
        q = rotate(q, cos[first:last], sin[first:last])
        keys = rotate(keys, cos[:last], sin[:last])
        out = dot_product(
            q.transpose(0, 1).unsqueeze(0),  # [1, heads, tokens, head_dim]
            keys.transpose(0, 1).unsqueeze(0),
            values.transpose(0, 1).unsqueeze(0),
            mask=self._mask(q.shape[0], last, self._windows[layer]),
            soft_cap=self._soft_cap,
        )
        return out[0].transpose(0, 1)

    def make_room(self, num_tokens: int, pins: Pins) -> bool:
        """Drop the oldest blocks until so many more tokens fit; False where nothing may go.

        At most a chunk may be asked for.
        """
        assert num_tokens <= self.chunk, f"{num_tokens} tokens are more than a chunk"
        while self.used + num_tokens > self.limit:
            loose = next((b for b in self.blocks if not b.touches(pins)), None)
            if loose is None:
                return False
            self._drop(loose)
        return True

    def advance(self, num_tokens: int) -> None:
        """Hold the first of the tokens that were attended from, all in full precision."""
        self.plain_at += range(self.num_read, self.num_read + num_tokens)
        self.num_read += num_tokens

    def settle(self) -> None:
        """Make blocks of all that is older than the residual."""
        while self.until_settled <= 0:
            self._retire()

    def skip(self, num_tokens: int) -> None:
        """Count tokens of the stream that are never held."""
        self.num_read += num_tokens

    def truncate(self, length: int) -> int:
        """Shorten the stream to `length` tokens, or to where the block that this cuts began.

        Return how long it is now.
        """
        while self.blocks and self.blocks[-1].at[-1] >= length:
            length = min(length, self.blocks[-1].at[0])
            self._drop(self.blocks[-1])
        self.plain_at = [at for at in self.plain_at if at < length]
        self.num_read = min(self.num_read, length)
        return self.num_read

    def restore(self, num_read: int, plain_at: list[int], blocks_at: list[tuple[int, ...]]) -> None:
        """Take over the books of what was copied into `plain` and, from place 0, the stores."""
        self.clear()
        self.num_read, self.plain_at = num_read, plain_at
        self.blocks = [StoredBlock(place, at) for place, at in enumerate(blocks_at)]
        del self._free[: len(self.blocks)]
        self._find_places()

    def _held(self) -> Iterator[int]:
        return chain(self.plain_at, *(block.at for block in self.blocks))

    def _gathered(self, store: BlockStore, plain: Tensor, layer: int) -> Tensor:
        if not self.blocks:
            return plain
        blocks = store.take(layer, self.places)
        return torch.cat((plain[: self.num_sinks], blocks, plain[self.num_sinks :]))

    def _mask(self, num_new: int, num_all: int, window: int | None) -> Tensor | None:
        """Return which keys each new token sees, [new, all]; None where it sees all."""
        if num_new == 1 and (window is None or num_all <= window):
            return None
        own = torch.arange(num_all - num_new, num_all, device=self.device).unsqueeze(1)
        other = torch.arange(num_all, device=self.device)
        seen = other <= own
        return seen if window is None else seen & (other > own - window)

    def _retire(self) -> None:
        """Make a block of the oldest plain tokens behind the sinks."""
        start, stop = self.num_sinks, self.num_sinks + self.block
        place = self._free.pop(0)
        for layer in range(self._layers):
            self.keys.put(layer, place, self.plain[0, layer, start:stop])
            self.values.put(layer, place, self.plain[1, layer, start:stop])
        self.blocks.append(StoredBlock(place, tuple(self.plain_at[start:stop])))
        left = len(self.plain_at) - stop
        # A copy: the two ranges may overlap.
        self.plain[:, :, start : start + left] = self.plain[:, :, stop : stop + left].clone()
        del self.plain_at[start:stop]
        self._find_places()

    def _drop(self, block: StoredBlock) -> None:
        self.blocks.remove(block)
        self._free.append(block.place)
        self._find_places()

    def _find_places(self) -> None:
        """Tell once, not in every layer of every step, where the blocks lie."""
        places = [block.place for block in self.blocks]
        first = places[0] if places else 0
        if places == list(range(first, first + len(places))):
            self.places = slice(first, first + len(places))
        else:
            self.places = to_device(torch.tensor(places, dtype=torch.int64), self.device)


def rotations_of(config: NetworkConfig, limit: int, device: torch.device) -> Rotations:
    """Return cos and sin of every position of a ring, for each rotary base."""
    return cos_sin(inverse_frequencies(config).to(device), torch.arange(limit, device=device))
