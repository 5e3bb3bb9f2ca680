"""Ring cache: the KV cache of one conversation, in memory that never grows.

The first tokens (attention sinks; Xiao et al., arXiv 2309.17453) and the newest ones stay in full
precision. Between them lie blocks of few bits: when there is no more room, the oldest block goes
that holds nothing pinned. A token's position is its place among those that are kept, told anew at
every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from backbone.attention import dot_product, soft_capped, visible
from backbone.config import NetworkConfig
from backbone.fast_tensor_ops import to_device
from backbone.rotary import cos_sin, inverse_frequencies, rotate
from engine.torch.kv.block_store import BlockStore, Places
from engine.window import Pins

# Is told of a layer's queries [tokens, heads, dim] and all keys in order [kv_heads, held, dim].
Observe = Callable[[int, Tensor, Tensor], None]
FEW = 8  # tokens that read stored blocks where they lie, once there are so many that a copy of
COPY_BELOW = 512  # them would take longer than more operators (benchmarks/ring_attention.json)


class Rotation(NamedTuple):
    """Rotation of every position by one rotary base, [positions, 1, dim].

    Both halves of a head's channels turn alike. Of stored keys the tokens lie last: those tables
    are [dim / 2, positions].
    """

    cos: Tensor
    sin: Tensor
    stored_cos: Tensor
    stored_sin: Tensor


class RingTables:
    """Tables and scratch memory of all rings of a network, which are read one at a time."""

    def __init__(self, config: NetworkConfig, limit: int, device: torch.device) -> None:
        self.limit = limit
        self.rotations = _rotations(config, limit, device)
        size = limit * config.num_key_value_heads * config.head_dim  # of a layer's keys
        self.decoded, self.turned = (torch.empty(size, device=device) for _ in range(2))


@dataclass(frozen=True)
class StoredBlock:
    """Stored block: its place in the stores, and where in the stream its tokens stood."""

    place: int
    at: tuple[int, ...]

    def touches(self, pins: Pins) -> bool:
        """Return whether any of its tokens must stay."""
        return any(i < pins.num_first or pins.last_start <= i < pins.last_end for i in self.at)


class _Sight(NamedTuple):
    """Sight of a layer: the stored blocks that its window leaves, and their tokens' positions."""

    places: Places
    at: slice

    @property
    def num_tokens(self) -> int:
        return int(self.at.stop - self.at.start)


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
        tables: RingTables | None = None,
        copy_below: int = COPY_BELOW,
    ) -> None:
        """Make room for `limit` tokens, of which `chunk` may come at once.

        With fewer stored tokens than `copy_below` all that is held is copied in order. `tables` are
        those of another ring of the same network and limit, to be shared.
        """
        least = num_sinks + residual + block + chunk
        assert limit >= least, f"a ring of {limit} tokens is too small: these parts need {least}"
        self.device = torch.device(device)
        self.block, self.residual, self.num_sinks = block, residual, num_sinks
        self.limit, self.chunk, self.copy_below = limit, chunk, copy_below
        self.num_blocks = -(-(limit - num_sinks - residual) // block)
        self._layers = config.num_hidden_layers
        self.windows = config.windows()
        self._bases = [config.rope_base(layer) for layer in range(self._layers)]
        self.soft_cap = config.attn_logit_softcapping
        self._heads = heads = (config.num_key_value_heads, config.head_dim)
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
        self.tables = tables or RingTables(config, limit, self.device)
        self.observe: Observe | None = None
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

    @torch.no_grad()
    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from new tokens to all that is held and to each other, causally.

        q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], not rotated; at most
        `chunk` tokens. They are held from `advance` on.
        """
        start, stop = len(self.plain_at), len(self.plain_at) + q.shape[0]
        self.plain[0, layer, start:stop] = k
        self.plain[1, layer, start:stop] = v
        turn, last = self.tables.rotations[self._bases[layer]], self.used + q.shape[0]
        own = slice(last - q.shape[0], last)
        q = rotate(q, turn.cos[own], turn.sin[own])
        sight = self._sight(layer)
        is_many = sight.num_tokens >= max(1, self.copy_below)
        if is_many and q.shape[0] <= FEW and self.observe is None:
            return self._attend_few(layer, q, stop, sight)
        return self._attend_many(layer, q, stop, sight)

    def _attend_few(self, layer: int, q: Tensor, stop: int, sight: _Sight) -> Tensor:
        """Attend from few tokens: stored blocks are read where they lie, and none is copied.

        Stored keys come first in every row of scores, then the plain ones.
        """
        num_new, num_stored = q.shape[0], sight.num_tokens
        # The heads of a group share keys: they are further rows, [kv_heads, group * new, dim].
        rows = q.view(num_new, self._heads[0], -1, q.shape[-1]).permute(1, 2, 0, 3)
        rows = rows.flatten(1, 2).float() * q.shape[-1] ** -0.5
        plain_k = self._turned_plain(layer, stop).float()
        scores = torch.cat(
            (rows @ self._turned_stored(layer, sight), rows @ plain_k.permute(1, 2, 0)), -1
        )
        scores = soft_capped(scores, self.soft_cap)
        if (seen := self._seen(layer, num_new, stop, sight, stored_first=True)) is not None:
            by_token = scores.view(len(scores), -1, num_new, scores.shape[-1])
            scores = by_token.masked_fill_(~seen, float("-inf")).flatten(1, 2)
        weights = torch.softmax(scores, -1)
        out = weights[..., num_stored:] @ self.plain[1, layer, :stop].transpose(0, 1).float()
        out += self.values.weighted(
            layer, sight.places, weights[..., :num_stored], self.tables.decoded
        )
        out = out.view(len(out), -1, num_new, out.shape[-1]).permute(2, 0, 1, 3)
        return out.flatten(1, 2).to(q.dtype)

    def _attend_many(self, layer: int, q: Tensor, stop: int, sight: _Sight) -> Tensor:
        """Attend from a chunk: its keys and values are decoded once for all of its tokens."""
        keys, values = self._turned_plain(layer, stop), self.plain[1, layer, :stop]
        keys, values = keys.transpose(0, 1), values.transpose(0, 1)  # [kv_heads, tokens, dim]
        if sight.num_tokens:
            stored = self._turned_stored(layer, sight).transpose(1, 2).to(q.dtype)
            keys = self._in_order(keys, stored)
            stored = self.values.values(layer, sight.places, self.tables.decoded)
            values = self._in_order(values, stored.to(q.dtype))
        if self.observe is not None:
            self.observe(layer, q, keys)
        out = dot_product(
            q.transpose(0, 1).unsqueeze(0),  # [1, heads, tokens, head_dim]
            keys.unsqueeze(0),
            values.unsqueeze(0),
            mask=self._seen(layer, q.shape[0], stop, sight),
            soft_cap=self.soft_cap,
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

    def drop_oldest(self, num_blocks: int) -> None:
        """Forget the oldest blocks, whatever is pinned."""
        for block in self.blocks[:num_blocks]:
            self._drop(block)

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

    def _sight(self, layer: int) -> _Sight:
        """Return what a layer's window leaves in sight of the next token."""
        window, behind = self.windows[layer], 0
        if window is not None:
            first_seen = self.used + 1 - window
            behind = min(len(self.blocks), max(0, first_seen - self.num_sinks) // self.block)
        places = self.places
        if isinstance(places, slice):
            places = slice(places.start + behind, places.stop)
        else:
            places = places[behind:]
        first, last = (self.num_sinks + n * self.block for n in (behind, len(self.blocks)))
        return _Sight(places, slice(first, last))

    def _in_order(self, plain: Tensor, stored: Tensor) -> Tensor:
        """Return [kv_heads, tokens, dim] with what is stored behind the sinks."""
        return torch.cat((plain[:, : self.num_sinks], stored, plain[:, self.num_sinks :]), 1)

    def _turned_plain(self, layer: int, stop: int) -> Tensor:
        """Return the plain keys, rotated: [tokens, kv_heads, dim]."""
        turn = self.tables.rotations[self._bases[layer]]
        cos, sin = self._of_plain(turn.cos, stop), self._of_plain(turn.sin, stop)
        return rotate(self.plain[0, layer, :stop], cos, sin)

    def _of_plain(self, angles: Tensor, stop: int) -> Tensor:
        """Return the rows of a table at the positions of the plain tokens."""
        sinks, num_stored = self.num_sinks, len(self.blocks) * self.block
        if not num_stored:
            return angles[:stop]
        return torch.cat((angles[:sinks], angles[sinks + num_stored : stop + num_stored]))

    def _turned_stored(self, layer: int, sight: _Sight) -> Tensor:
        """Return the keys of the blocks in sight, rotated: float32 [kv_heads, dim, tokens]."""
        keys = self.keys.keys(layer, sight.places, self.tables.decoded)
        first, second = keys.chunk(2, 1)
        turn = self.tables.rotations[self._bases[layer]]
        cos, sin = turn.stored_cos[:, sight.at], turn.stored_sin[:, sight.at]
        turned = self.tables.turned[: keys.numel()].view(keys.shape)
        low, high = turned.chunk(2, 1)
        torch.mul(first, cos, out=low).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=high).addcmul_(first, sin)
        return turned

    def _seen(
        self, layer: int, num_new: int, stop: int, sight: _Sight, *, stored_first: bool = False
    ) -> Tensor | None:
        """Return which keys each new token sees, [new, all]; None where it sees all."""
        window, num_all = self.windows[layer], len(self.blocks) * self.block + stop
        if num_new == 1 and (window is None or num_all <= window):
            return None
        at, sinks = torch.arange(num_all, device=self.device), min(self.num_sinks, stop)
        parts = [at[:sinks], at[sight.at], at[sight.at.stop if self.blocks else sinks :]]
        if stored_first:
            parts[:2] = parts[1::-1]
        own = at[num_all - num_new :].unsqueeze(1)
        return visible(own, torch.cat(parts) if self.blocks else at, window)

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


def _rotations(config: NetworkConfig, limit: int, device: torch.device) -> list[Rotation]:
    half = config.head_dim // 2
    tables = cos_sin(inverse_frequencies(config).to(device), torch.arange(limit, device=device))
    return [
        Rotation(cos, sin, *(each[:, 0, :half].t().contiguous() for each in (cos, sin)))
        for cos, sin in tables
    ]
