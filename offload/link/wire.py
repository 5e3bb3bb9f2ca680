"""What crosses the socket: four frames (version, kind, request id, msgpack body), decoded strictly.

The version frame, HELLO and REFUSED keep their form in every version, so that peers of different
ages can tell each other why they part.
"""

from __future__ import annotations

import enum
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from offload.errors import LinkError, RequestError
from offload.messages import Confidence, Delta, Finish, ModelCard, Request, Side

VERSION = 1
OLDEST_VERSION = 1
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_ID_BYTES = 256  # 64 characters of four bytes
MAX_SCHEMA_DEPTH = 32
_SMALL_BODY_BYTES = 64 * 1024
_CONFIDENCE = struct.Struct("<3f")


class WireError(LinkError):
    """Frames that are no message of this protocol."""


class Kind(enum.IntEnum):
    """What a message is; the numbers never change their meaning."""

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


class Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of the bodies that only the link knows; arrays, since every byte is paid for."""


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The device's first message; unknown fields are let pass, since a newer device may send it."""

    oldest_version: int
    newest_version: int
    device: str = ""
    session: str = ""  # one run of a program on the device: only it hears its answers


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The cloud's answer to HELLO."""

    version: int
    cards: tuple[ModelCard, ...]
    instance: str  # one run of the cloud: another one knows nothing of our requests
    window: int  # how many Deltas may be ahead of the reader
    max_message_bytes: int
    max_streams: int
    clock_s: float  # the cloud's wall clock, seconds since 1970


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why the cloud will not talk: code "version", "hello" (say HELLO first) or "key"."""

    code: str
    message: str


class PackedDelta(Body, frozen=True):
    """A Delta in few bytes: confidences as three 32-bit floats for each token."""

    text: str
    index: int
    token_ids: tuple[int, ...]
    confidence: bytes
    source: Side | None
    replaces: bool


class Deltas(Body, frozen=True):
    """One or more pieces of an answer; `first` counts the pieces sent before, from 0."""

    first: int
    items: tuple[PackedDelta, ...]


class Cancel(Body, frozen=True):
    """Stop a request; its answer is no longer wanted."""


class Credit(Body, frozen=True):
    """The reader allows the Deltas before position `until`."""

    until: int


class Resume(Body, frozen=True):
    """After a new handshake: go on with an answer of which `received` Deltas have arrived."""

    received: int
    until: int


class Join(Body, frozen=True):
    """Said over the connection of an invite: the key that the device will come with from now on."""

    public_key: str


class Joined(Body, frozen=True):
    """The cloud knows the device's key now, under this name."""

    name: str


class Load(Body, frozen=True):
    """How much the cloud has to do, for all its devices together.

    `queue_s` and `first_piece_s` are medians of the last answers, None before the first: how long
    they waited for the engine, and how long until it said something (the queue included).
    """

    in_flight: int = 0
    num_waiting: int = 0  # of those in flight, how many have not yet said anything
    queue_s: float | None = None
    first_piece_s: float | None = None


class Ping(Body, frozen=True):
    """A sign of life; `sent_s`, the sender's own clock, and `padding` come back unchanged."""

    sent_s: float
    padding: bytes = b""


class Pong(Body, frozen=True):
    """The answer to PING; `sent_s` and `padding` are those of the PING."""

    sent_s: float
    clock_s: float  # the cloud's wall clock, seconds since 1970
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
    | Finish
    | Cancel
    | Credit
    | Resume
    | Join
    | Joined
    | Ping
    | Pong
    | Failure
    | Refused
)

_TYPES: dict[Kind, type[Any]] = {
    Kind.HELLO: Hello,
    Kind.READY: Ready,
    Kind.REQUEST: Request,
    Kind.DELTAS: Deltas,
    Kind.FINISH: Finish,
    Kind.CANCEL: Cancel,
    Kind.PING: Ping,
    Kind.PONG: Pong,
    Kind.ERROR: Failure,
    Kind.REFUSED: Refused,
    Kind.CREDIT: Credit,
    Kind.RESUME: Resume,
    Kind.JOIN: Join,
    Kind.JOINED: Joined,
}
_KINDS = {body_type: kind for kind, body_type in _TYPES.items()}
_DECODE: dict[Kind, Callable[[bytes], Any]] = {
    kind: msgspec.msgpack.Decoder(body_type, strict=True).decode
    for kind, body_type in _TYPES.items()
}
_encode = msgspec.msgpack.Encoder().encode
_LARGE = (Kind.REQUEST, Kind.DELTAS, Kind.FINISH, Kind.READY)


class Envelope(NamedTuple):
    """A message whose head is read and whose body is not."""

    version: int
    kind: Kind
    id: str
    body: bytes

    @property
    def size_bytes(self) -> int:
        """The content bytes of the message, as `size_bytes(frames)` counts them."""
        return 2 + len(self.id.encode()) + len(self.body)


def encode(body: AnyBody, request_id: str = "") -> list[bytes]:
    """Return the four frames of a message. Raises RequestError for text that is not Unicode."""
    try:
        packed = _encode(body)
        head = request_id.encode()
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise RequestError(f"the message cannot be written as msgpack ({error})") from None
    return [bytes((VERSION,)), bytes((_KINDS[type(body)],)), head, packed]


def open_envelope(frames: Sequence[bytes]) -> Envelope:
    """Read the head of a message. Raises WireError for frames that are none."""
    if len(frames) != 4:
        raise WireError(f"a message has four frames, not {len(frames)}")
    version, kind, request_id, body = frames
    if len(version) != 1 or len(kind) != 1 or len(request_id) > MAX_ID_BYTES:
        raise WireError("the head of the message has a wrong length")
    try:
        return Envelope(version[0], Kind(kind[0]), request_id.decode(), body)
    except ValueError as error:
        raise WireError(f"the head of the message is damaged ({error})") from None


def open_body(envelope: Envelope) -> AnyBody:
    """Decode the body of a message.

    Raises WireError where it is not what its kind says, RequestError for a well-formed request
    with a value out of range.
    """
    kind, body = envelope.kind, envelope.body
    if envelope.version != VERSION and kind not in (Kind.HELLO, Kind.REFUSED):
        raise WireError(f"the message is of version {envelope.version}, not {VERSION}")
    if len(body) > (MAX_MESSAGE_BYTES if kind in _LARGE else _SMALL_BODY_BYTES):
        raise WireError(f"the body of a {kind.name} has {len(body)} bytes, which is too many")
    try:
        message: AnyBody = _DECODE[kind](body)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"the body of a {kind.name} is damaged ({error})") from None
    if isinstance(message, Request):
        _check_schema(message.sampling.json_schema, MAX_SCHEMA_DEPTH)
    return message


def pack_delta(delta: Delta) -> PackedDelta:
    """Return the short form of a Delta; confidences lose what 32-bit floats cannot hold."""
    floats = array("f")  # a struct would refuse what 32 bits cannot hold; this makes it infinite
    for one in delta.confidence:
        floats.extend((one.logprob, one.entropy, one.margin))
    if sys.byteorder == "big":
        floats.byteswap()
    confidence = floats.tobytes()
    return PackedDelta(
        delta.text, delta.index, delta.token_ids, confidence, delta.source, delta.replaces
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
        source=packed.source,
        replaces=packed.replaces,
    )


def size_bytes(frames: Sequence[bytes]) -> int:
    """Return the content bytes of a message, framing and encryption not counted."""
    return sum(map(len, frames))


def _check_schema(value: object, depth: int) -> None:
    # A JSON schema is free-form, so that msgspec does not bound it for us.
    if depth < 0:
        raise RequestError(f"the JSON schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_schema(key, 0)
            _check_schema(inner, depth - 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_schema(inner, depth - 1)
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise RequestError("the JSON schema holds a value that JSON cannot")
