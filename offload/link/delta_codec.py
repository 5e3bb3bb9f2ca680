"""A Delta in few bytes, since every byte of a token is paid for."""

from __future__ import annotations

import struct
import sys
from array import array

from offload.link.message_bodies import PackedDelta
from offload.link.wire import WireError
from offload.messages import Confidence, Delta

_CONFIDENCE = struct.Struct("<3f")
_ALTERNATIVE_BYTES = 24


def pack_delta(delta: Delta) -> PackedDelta:
    """Return the short form of a Delta; confidences lose what 32-bit floats cannot hold."""
    floats = array("f")  # a struct would refuse what 32 bits cannot hold; this makes it infinite
    for one in delta.confidence:
        floats.extend((one.logprob, one.entropy, one.margin))
    if sys.byteorder == "big":
        floats.byteswap()
    return PackedDelta(
        delta.text,
        delta.index,
        delta.token_ids,
        floats.tobytes(),
        delta.source,
        delta.replaces,
        delta.alternatives,
        delta.prompt_tokens,
    )


def unpack_delta(packed: PackedDelta) -> Delta:
    """Return the Delta. Raises WireError where the confidences are cut off."""
    if len(packed.confidence) % _CONFIDENCE.size:
        raise WireError("the confidences of a DELTAS are cut off")
    return Delta(
        text=packed.text,
        index=packed.index,
        token_ids=packed.token_ids,
        confidence=tuple(
            Confidence(*three) for three in _CONFIDENCE.iter_unpack(packed.confidence)
        ),
        alternatives=packed.alternatives,
        prompt_tokens=packed.prompt_tokens,
        source=packed.source,
        replaces=packed.replaces,
    )


def estimated_bytes(packed: PackedDelta) -> int:
    """Return about how many bytes a piece takes in a message, without encoding it."""
    num_alternatives = sum(1 + len(one) for one in packed.alternatives)
    num_alternatives += sum(1 + len(one.alternatives) for one in packed.prompt_tokens)
    size = 4 * len(packed.text) + 5 * len(packed.token_ids) + len(packed.confidence)
    return size + _ALTERNATIVE_BYTES * num_alternatives
