"""The response cache: repeats a greedy answer, to the device that had it and no other."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from offload.messages import Delta, Finish, Request, Usage

_MAX_TOKENS = 4096  # of an answer that is kept


class ResponseCache:
    """Response cache of `size` answers, the least recently used dropped first; 0 keeps none."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[bytes, list[Delta | Finish]] = OrderedDict()

    def key(self, device: str, request: Request, prompt: Sequence[int]) -> bytes | None:
        """Return the key of an answer; None where it may not be repeated."""
        if not self._size or request.sampling.temperature != 0.0:
            return None
        said = msgspec.json.encode(
            (
                device,
                request.cache_salt,
                prompt,
                request.sampling,
                request.answer_prefix,
                request.scored_turn,
            )
        )
        return hashlib.sha256(said).digest()

    def get(self, key: bytes | None) -> list[Delta | Finish] | None:
        """Return a kept answer, or None."""
        if key is None or key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: bytes | None, items: Sequence[Delta | Finish]) -> None:
        """Keep a whole answer; one that was cut short by anything but its length is not kept."""
        finish = items[-1]
        if key is None or not isinstance(finish, Finish) or finish.reason not in ("stop", "length"):
            return
        if finish.usage.completion_tokens > _MAX_TOKENS:
            return
        counts = Usage(
            prompt_tokens=finish.usage.prompt_tokens,
            cached_tokens=finish.usage.prompt_tokens,
            completion_tokens=finish.usage.completion_tokens,
        )
        self._kept[key] = [*items[:-1], msgspec.structs.replace(finish, usage=counts)]
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)
