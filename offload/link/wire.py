"""What crosses the socket: two frames, a head and a msgpack body, decoded strictly.

The head is one byte of version, one of kind, and the request id. The version byte, HELLO and
REFUSED keep their form in every version, so that peers of different ages can tell each other why
they part. Two frames rather than four, since each is sent, encrypted and received on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from offload.errors import LinkError, RequestError
from offload.link.bodies import (
    AnyBody,
    Cancel,
    Credit,
    Deltas,
    Failure,
    Hello,
    Join,
    Joined,
    Kind,
    Ping,
    Pong,
    Ready,
    Refused,
    Resume,
)
from offload.messages import Finish, Request

VERSION = 2  # 2: prompts of token ids, cache salts, cached tokens, the engine's own load
OLDEST_VERSION = 2
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_ID_BYTES = 256  # 64 characters of four bytes
MAX_DEPTH = 32  # of what is free-form: a JSON schema, the description of a tool
_SMALL_BODY_BYTES = 64 * 1024


class WireError(LinkError):
    """Frames that are no message of this protocol."""


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
_HEADS = {body_type: bytes((VERSION, kind)) for kind, body_type in _TYPES.items()}
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
    """Return the two frames of a message.

    Raises RequestError for text that is not Unicode, and for more bytes than a message may have.
    """
    try:
        packed = _encode(body)
        head = _HEADS[type(body)] + request_id.encode()
    except (UnicodeEncodeError, OverflowError, TypeError) as error:
        raise RequestError(f"the message cannot be written as msgpack ({error})") from None
    if len(packed) > MAX_MESSAGE_BYTES:
        raise RequestError(
            f"the message has {len(packed)} bytes and the link carries at most "
            f"{MAX_MESSAGE_BYTES}; shorten it"
        )
    return [head, packed]


def open_envelope(frames: Sequence[bytes]) -> Envelope:
    """Read the head of a message. Raises WireError for frames that are none."""
    if len(frames) != 2:
        raise WireError(f"a message has two frames, not {len(frames)}")
    head, body = frames
    if not 2 <= len(head) <= 2 + MAX_ID_BYTES:
        raise WireError("the head of the message has a wrong length")
    try:
        return Envelope(head[0], Kind(head[1]), head[2:].decode(), body)
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
        _check_free_form(message.sampling.json_schema, MAX_DEPTH, "the JSON schema")
        for tool in message.tools:
            _check_free_form(tool, MAX_DEPTH, "the description of a tool")
    return message


def size_bytes(frames: Sequence[bytes]) -> int:
    """Return the content bytes of a message, framing and encryption not counted."""
    return sum(map(len, frames))


def _check_free_form(value: object, depth: int, what: str) -> None:
    # What is free-form msgspec does not bound for us.
    if depth < 0:
        raise RequestError(f"{what} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_free_form(key, 0, what)
            _check_free_form(inner, depth - 1, what)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_free_form(inner, depth - 1, what)
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise RequestError(f"{what} holds a value that JSON cannot")
