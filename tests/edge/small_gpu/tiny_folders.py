"""What the tests of the torch runtime ask of it, and how its answers end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.torch.request_state import Item
from offload.messages import Finish

NEVER_ENDS = {0: -100.0}  # a bias on the end token

SMALL: dict[str, Any] = {"device": "cpu", "kv_block": 8, "kv_residual": 8}


def finish_of(posts: Sequence[Item]) -> Finish:
    assert isinstance(posts[-1], Finish), posts[-1]
    return posts[-1]
