"""Wire format: messages of one frame, a head and a msgpack body, decoded strictly.

The head is one byte of version, one of kind, two of the request id's length, and the id. The
version byte is that of the oldest peer that understands the message, so that most cross between
peers of different ages as they are. It, HELLO and REFUSED keep their form in every version, so
that peers can tell each other why they part. One frame, since ZeroMQ encrypts each on its own: who
sits on the line could take some out and join the head of one message to the body of another.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Raw

from offload.errors import LinkError, RequestError
from offload.link.message_bodies import (
    AnyBody,
    Cancel,
    Credit,
    Deltas,
    End,
    Failure,
    Hello,
    HelloRefused,
    Join,
    Joined,
    Kind,
    PackedDelta,
    Ping,
    Pong,
    Reading,
    Ready,
    Resume,
)
from offload.messages import (
    MAX_TOOLS,
    Confidence,
    Delta,
    ForwardedRequest,
    Request,
    Route,
    Sampling,
)

# 5: chains of machines; 4: a turn that is scored; 3: the model's own sampling;
# 2: token ids, cache salts, load
VERSION = 5
OLDEST_VERSION = 3
MAX_MESSAGE_BYTES = 8 * 1024 * 1024
MAX_ID_BYTES = 256  # 64 characters of four bytes
MAX_DEPTH = 32  # of what is free-form: a JSON schema, the description of a tool
# A free-form value may take this much: a byte of an empty list becomes 64 when it is decoded.
MAX_FREE_FORM_BYTES = 512 * 1024
_SMALL_BODY_BYTES = 64 * 1024
_HEAD = struct.Struct(">BBH")


class WireError(LinkError):
    """Bytes that are no message of this protocol."""


_TYPES: dict[Kind, type[Any]] = {
    Kind.HELLO: Hello,
    Kind.READY: Ready,
    Kind.REQUEST: Request,
    Kind.DELTAS: Deltas,
    Kind.FINISH: End,
    Kind.CANCEL: Cancel,
    Kind.PING: Ping,
    Kind.PONG: Pong,
    Kind.ERROR: Failure,
    Kind.REFUSED: HelloRefused,
    Kind.CREDIT: Credit,
    Kind.RESUME: Resume,
    Kind.JOIN: Join,
    Kind.JOINED: Joined,
    Kind.READING: Reading,
}
_NIL = Raw(b"\xc0")


class _RawSampling(Sampling, frozen=True, kw_only=True):
    """A Sampling whose schema is still bytes."""

    json_schema: Raw = _NIL  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Check nothing yet: whether there is a schema is known when the Sampling is built."""


class _RawRequest(ForwardedRequest, frozen=True, kw_only=True):
    """A Request whose free-form parts are still bytes, to be measured before they are built."""

    sampling: _RawSampling = _RawSampling()
    tools: Annotated[tuple[Raw, ...], Meta(max_length=MAX_TOOLS)] = ()  # type: ignore[assignment]
    template_options: Raw = _NIL  # type: ignore[assignment]


_KINDS = {body_type: kind for kind, body_type in _TYPES.items()}
_KINDS[ForwardedRequest] = Kind.REQUEST
_DECODE: dict[Kind, Callable[[bytes], Any]] = {
    kind: msgspec.msgpack.Decoder(
        _RawRequest if body_type is Request else body_type, strict=True
    ).decode
    for kind, body_type in _TYPES.items()
}
_decode_schema = msgspec.msgpack.Decoder(dict[str, Any] | None).decode
_decode_tool = msgspec.msgpack.Decoder(dict[str, Any]).decode
_encode = msgspec.msgpack.Encoder().encode
_LARGE = (Kind.REQUEST, Kind.DELTAS, Kind.FINISH, Kind.READY)


class Envelope(NamedTuple):
    """Envelope of a message: its head is read, its body is not."""

    version: int
    kind: Kind
    id: str
    body: bytes

    @property
    def size_bytes(self) -> int:
        """The bytes of the message; framing and encryption not counted."""
        return _HEAD.size + len(self.id.encode()) + len(self.body)


def needed_version(body: AnyBody) -> int:
    """Return the oldest version whose readers understand a message; its head says so."""
    if isinstance(body, End):
        return 3 if body.finish.route in (None, _short(body.finish.route)) else 5
    if not isinstance(body, Request):
        return 3
    if body.via:
        return 5
    return 4 if body.scored_turn is not None else 3


def for_version(body: AnyBody, version: int) -> AnyBody:
    """Return a message as a peer of this version may read it.

    Without `scored_turn` all of a prompt is read and told, which takes longer. An older peer is
    the last place of its chain, since it names itself to nobody.
    """
    if version >= needed_version(body):
        return body
    if isinstance(body, Request):
        turn = body.scored_turn if version >= 4 else None
        return msgspec.structs.replace(body, scored_turn=turn, via=())
    assert isinstance(body, End), "others are read by all"
    finish = msgspec.structs.replace(body.finish, route=_short(body.finish.route))
    return End(body.num_pieces, finish)


def _short(route: Route | None) -> Route | None:
    """Return of a route what every version reads: an engine that chooses nothing says no more."""
    return None if route is None else Route(served_by=route.served_by, reason=route.reason)


def encode(body: AnyBody, request_id: str = "") -> bytes:
    """Return a message.

    Raises RequestError for text that is not Unicode, and for more bytes than a message may have.
    """
    try:
        packed = _encode(body)
        written_id = request_id.encode()
        version = needed_version(body)
        head = _HEAD.pack(version, _KINDS[type(body)], len(written_id)) + written_id
    except (UnicodeEncodeError, OverflowError, TypeError, struct.error) as error:
        raise RequestError(
            f"the message holds what cannot be sent ({error}); leave it out"
        ) from None
    if len(packed) > MAX_MESSAGE_BYTES:
        raise RequestError(
            f"the message has {len(packed)} bytes and the link carries at most "
            f"{MAX_MESSAGE_BYTES}; shorten it"
        )
    return head + packed


def open_envelope(message: bytes) -> Envelope:
    """Read the head of a message. Raises WireError for bytes that are none."""
    try:
        version, kind, num_id_bytes = _HEAD.unpack_from(message)
        body_at = _HEAD.size + num_id_bytes
        if num_id_bytes > MAX_ID_BYTES or body_at > len(message):
            raise WireError("the head of the message has a wrong length")
        request_id = message[_HEAD.size : body_at].decode()
        return Envelope(version, Kind(kind), request_id, message[body_at:])
    except (ValueError, struct.error) as error:
        raise WireError(f"the head of the message is damaged ({error})") from None


def open_body(envelope: Envelope) -> AnyBody:
    """Decode the body of a message.

    Raises WireError where it is not what its kind says, RequestError for a well-formed request
    with a value out of range.
    """
    kind, body = envelope.kind, envelope.body
    in_range = OLDEST_VERSION <= envelope.version <= VERSION
    if not in_range and kind not in (Kind.HELLO, Kind.REFUSED):
        raise WireError(
            f"the message is of version {envelope.version}, not {OLDEST_VERSION} to {VERSION}"
        )
    if len(body) > (MAX_MESSAGE_BYTES if kind in _LARGE else _SMALL_BODY_BYTES):
        raise WireError(f"the body of a {kind.name} has {len(body)} bytes, which is too many")
    try:
        message: AnyBody = _DECODE[kind](body)
        return _built(message) if isinstance(message, _RawRequest) else message
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"the body of a {kind.name} is damaged ({error})") from None


def _built(raw: _RawRequest) -> Request:
    """Return the request with its free-form parts built, once they are known to be small."""
    _check_size(len(raw.sampling.json_schema), "the JSON schema's words")
    _check_size(sum(map(len, raw.tools)), "the descriptions of the tools")
    _check_size(len(raw.template_options), "the template's options")
    schema = _decode_schema(raw.sampling.json_schema)
    options = _decode_schema(raw.template_options)
    tools = tuple(map(_decode_tool, raw.tools))
    _check_free_form(schema, MAX_DEPTH, "the JSON schema")
    _check_free_form(options, MAX_DEPTH, "template_options")
    for tool in tools:
        _check_free_form(tool, MAX_DEPTH, "the description of a tool")
    sampling = Sampling(**_fields(raw.sampling, json_schema=schema))
    fields = _fields(raw, sampling=sampling, tools=tools, template_options=options)
    if raw.asker or raw.priority != "interactive":
        return ForwardedRequest(**fields)
    del fields["asker"], fields["priority"]
    return Request(**fields)


def _fields(message: msgspec.Struct, **changed: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__} | changed


def _check_size(num_bytes: int, what: str) -> None:
    if num_bytes > MAX_FREE_FORM_BYTES:
        raise RequestError(
            f"{what} take {num_bytes} bytes and at most {MAX_FREE_FORM_BYTES} are taken; "
            "make them smaller"
        )


def _check_free_form(value: object, depth: int, what: str) -> None:
    # What is free-form msgspec does not bound for us.
    if depth < 0:
        raise RequestError(f"{what} is nested deeper than {MAX_DEPTH} levels; make it flatter")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_free_form(key, 0, what)
            _check_free_form(inner, depth - 1, what)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_free_form(inner, depth - 1, what)
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise RequestError(f"{what} holds a value that JSON cannot; leave it out")


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
