"""Message bodies of the link: one struct for each kind of message."""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from offload.messages import (
    MAX_TOKEN_ID,
    Alternative,
    Count,
    EngineLoad,
    Finish,
    ModelCard,
    PromptToken,
    Request,
    Side,
)

MAX_WINDOW = 1 << 16
Seconds = Annotated[float, Meta(ge=0.0, le=1e12)]


class Kind(enum.IntEnum):
    """Kind of a message; the numbers never change their meaning."""

    HELLO = 1
    READY = 2
    REQUEST = 3
    DELTAS = 4
    FINISH = 5
    CANCEL = 6
    PING = 7
    PONG = 8
    ERROR = 9
    REFUSED = 10
    CREDIT = 11
    RESUME = 12
    JOIN = 13
    JOINED = 14
    READING = 15


class Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of the bodies that only the link knows; arrays, since every byte is paid for."""


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """HELLO, the device's first message; unknown fields pass, since a newer device may send it."""

    oldest_version: int
    newest_version: int
    device: str = ""
    session: str = ""  # one run of a program on the device: only it hears its answers
    hears_reading: bool = False  # an older device takes a kind that it does not know for damage


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """READY, the cloud's answer to HELLO."""

    version: int
    cards: Annotated[tuple[ModelCard, ...], Meta(min_length=1, max_length=64)]
    instance: str  # one run of the cloud: another one knows nothing of our requests
    window: Annotated[int, Meta(ge=1, le=MAX_WINDOW)]  # Deltas that may be ahead of the reader
    max_message_bytes: Count
    max_streams: Count
    clock_s: Seconds  # the cloud's wall clock, since 1970


class HelloRefused(msgspec.Struct, frozen=True, kw_only=True):
    """Why the cloud will not talk: code "version", "hello" (say HELLO first) or "key"."""

    code: str
    message: str


class PackedDelta(Body, frozen=True):
    """A Delta in few bytes: confidences as three 32-bit floats for each token."""

    text: str
    index: Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
    token_ids: tuple[Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)], ...]
    confidence: bytes
    source: Side | None
    replaces: bool
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    prompt_tokens: tuple[PromptToken, ...] = ()


class Deltas(Body, frozen=True):
    """DELTAS, one or more pieces of an answer; `first` counts the pieces sent before, from 0."""

    first: int
    items: tuple[PackedDelta, ...]


class Reading(Body, frozen=True):
    """READING, before an answer's first piece: how many tokens of its prompt have been read.

    It is said once, to those who hear it (Hello.hears_reading), and not again after a loss.
    """

    num_read: Annotated[int, Meta(ge=0)]
    num_tokens: Annotated[int, Meta(ge=0)]


class End(Body, frozen=True):
    """How the answer ended, and how many pieces it had: one lost on the way is missed."""

    num_pieces: int
    finish: Finish


class Cancel(Body, frozen=True):
    """CANCEL of a request whose answer is no longer wanted."""


class Credit(Body, frozen=True):
    """CREDIT: the reader allows the Deltas before position `until`."""

    until: int


class Resume(Body, frozen=True):
    """RESUME after a new handshake: go on with an answer of which `received` Deltas arrived."""

    received: int
    until: int


class Join(Body, frozen=True):
    """JOIN over the connection of an invite: the key that the device will use from now on."""

    public_key: str


class Joined(Body, frozen=True):
    """JOINED: the cloud knows the device's key now, under this name."""

    name: str


class Load(Body, frozen=True):
    """Load of the cloud, of all its devices together.

    `queue_s` and `first_piece_s` are medians of the last answers, None before the first: how long
    they waited for the engine, and how long until it said something (the queue included).
    `engine` is told on this machine's own endpoint only, which has no keys: from the use of its
    cache a device could learn of others.
    """

    in_flight: Count = 0
    num_waiting: Count = 0  # of those in flight, how many have not yet said anything
    queue_s: Seconds | None = None
    first_piece_s: Seconds | None = None
    engine: EngineLoad | None = None


class Ping(Body, frozen=True):
    """PING, a sign of life; `sent_s`, the sender's own clock, and `padding` come back unchanged."""

    sent_s: float
    padding: bytes = b""


class Pong(Body, frozen=True):
    """PONG, the answer to PING; `sent_s` and `padding` are those of the PING."""

    sent_s: float
    clock_s: Seconds  # the cloud's wall clock, since 1970
    load: Load
    padding: bytes = b""


class Failure(Body, frozen=True):
    """Why one request failed: a code of offload/link/failures.py and the line a person reads.

    `retry_after_s` is when to ask again, where the code says that asking again may help.
    """

    code: str
    message: str
    retry_after_s: float = 1.0


AnyBody = (
    Hello
    | Ready
    | Request
    | Deltas
    | End
    | Cancel
    | Credit
    | Resume
    | Join
    | Joined
    | Ping
    | Pong
    | Failure
    | HelloRefused
    | Reading
)
