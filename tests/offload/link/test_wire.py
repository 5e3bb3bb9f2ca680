from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from offload.errors import RequestError
from offload.link import message_bodies, wire
from offload.link.message_bodies import Kind
from offload.link.peers import answer_hello
from offload.link.running_requests import AnswerLimits
from offload.link.wire import Envelope, WireError, pack_delta, unpack_delta
from offload.messages import (
    MAX_TOKEN_ID,
    Alternative,
    Budget,
    Confidence,
    Delta,
    EngineLoad,
    Finish,
    ForwardedRequest,
    Message,
    Privacy,
    PromptToken,
    Request,
    Route,
    Sampling,
    Usage,
)
from tests.offload.scripted import CARD, delta

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
f32 = st.floats(width=32, allow_nan=False)
floats = st.floats(allow_nan=False)
seconds = st.floats(0.0, 1e12)
token_ids = st.integers(0, MAX_TOKEN_ID)
counts = st.integers(0, 2**40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 5),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(texts.filter(bool), max_size=3).map(tuple),
    max_tokens=st.integers(1, 1_000_000),
    json_schema=st.none() | st.dictionaries(texts, json_values, max_size=3),
)
asked = texts.filter(str.strip)
messages = st.builds(Message, role=st.sampled_from(["user", "assistant", "tool"]), content=asked)
requests = (
    st.builds(
        Request,
        id=texts.filter(lambda text: 1 <= len(text) <= 64),
        messages=st.lists(messages, min_size=1, max_size=3).map(tuple),
        sampling=samplings,
        privacy=st.sampled_from(Privacy),
        deadline_s=st.none() | st.floats(0.001, 86_400),
        budget=st.builds(Budget, max_cost=st.none() | floats, max_bytes_sent=st.none() | counts),
        session=st.none() | texts,
        model=texts,
        tools=st.lists(st.dictionaries(texts, json_values, max_size=3), max_size=2).map(tuple),
        answer_prefix=texts,
    )
    | st.builds(
        Request,
        prompt=asked,
        cache_salt=texts,
    )
    | st.builds(
        Request,
        prompt_token_ids=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5).map(tuple),
    )
)
alternatives = st.lists(st.builds(Alternative, counts, texts, floats), max_size=3).map(tuple)
prompt_tokens = st.builds(PromptToken, counts, texts, st.none() | floats, alternatives)
deltas = st.builds(
    Delta,
    text=texts,
    index=token_ids,
    token_ids=st.lists(token_ids, max_size=4).map(tuple),
    confidence=st.lists(st.builds(Confidence, f32, f32, f32), max_size=4).map(tuple),
    alternatives=st.lists(alternatives, max_size=3).map(tuple),
    prompt_tokens=st.lists(prompt_tokens, max_size=3).map(tuple),
    source=st.sampled_from([None, "edge", "cloud"]),
    replaces=st.booleans(),
)
finishes = st.builds(
    Finish,
    reason=st.sampled_from(["stop", "length", "cancelled", "deadline", "error"]),
    usage=st.builds(
        Usage, prompt_tokens=counts, cached_tokens=counts, queue_s=floats, bytes_sent=counts
    ),
    route=st.none() | st.builds(Route, served_by=st.sampled_from(["edge", "cloud"]), reason=texts),
    error=st.none() | texts,
)
loads = st.none() | st.builds(EngineLoad, num_running=counts, kv_cache_usage=st.floats(0.0, 1.0))
any_body = st.one_of(
    requests,
    st.builds(message_bodies.End, counts, finishes),
    st.builds(
        message_bodies.Hello,
        oldest_version=counts,
        newest_version=counts,
        device=texts,
        session=texts,
        hears_reading=st.booleans(),
    ),
    st.builds(message_bodies.Reading, counts, counts),
    st.builds(
        message_bodies.Ready,
        version=counts,
        cards=st.just((CARD,)),
        instance=texts,
        window=st.integers(1, message_bodies.MAX_WINDOW),
        max_message_bytes=counts,
        max_streams=counts,
        clock_s=seconds,
    ),
    st.builds(message_bodies.HelloRefused, code=texts, message=texts),
    st.builds(
        message_bodies.Deltas, counts, st.lists(deltas.map(pack_delta), max_size=3).map(tuple)
    ),
    st.builds(message_bodies.Cancel),
    st.builds(message_bodies.Join, texts),
    st.builds(message_bodies.Joined, texts),
    st.builds(message_bodies.Credit, counts),
    st.builds(message_bodies.Resume, counts, counts),
    st.builds(message_bodies.Ping, floats, st.binary(max_size=9)),
    st.builds(
        message_bodies.Pong,
        floats,
        seconds,
        st.builds(message_bodies.Load, counts, counts, st.none(), st.none(), loads),
        st.binary(),
    ),
    st.builds(message_bodies.Failure, texts, texts),
)


def read(message: bytes) -> message_bodies.AnyBody:
    return wire.open_body(wire.open_envelope(message))


@given(any_body, texts)
def test_every_message_survives_the_wire(body: message_bodies.AnyBody, request_id: str) -> None:
    message = wire.encode(body, request_id)
    envelope = wire.open_envelope(message)
    assert wire.open_body(envelope) == body
    assert envelope.id == request_id
    assert envelope.size_bytes == len(message)


@given(deltas)
def test_a_delta_survives_packing(one: Delta) -> None:
    assert unpack_delta(pack_delta(one)) == one


def test_confidences_keep_the_precision_of_32_bit_floats() -> None:
    sure = Confidence(-0.1, 1 / 3, 1e-7)
    (back,) = unpack_delta(pack_delta(Delta(confidence=(sure,)))).confidence
    for name in ("logprob", "entropy", "margin"):
        assert getattr(back, name) == pytest.approx(getattr(sure, name), rel=1e-6)


def test_confidences_too_large_for_32_bits_become_infinite() -> None:
    huge = Confidence(-1e300, float("inf"), 1e300)
    (back,) = unpack_delta(pack_delta(Delta(confidence=(huge,)))).confidence
    assert back == Confidence(float("-inf"), float("inf"), float("inf"))


def test_a_token_in_a_batch_costs_under_forty_bytes() -> None:
    items = tuple(pack_delta(delta(" word", index)) for index in range(8))
    assert len(wire.encode(message_bodies.Deltas(0, items), "x" * 32)) / 8 < 40


@given(st.binary(max_size=40))
def test_arbitrary_bytes_are_refused_or_read_and_nothing_else(message: bytes) -> None:
    refused_or_read(message)


@given(st.sampled_from(Kind), st.binary(max_size=300))
@example(Kind.REQUEST, b"\xdd\xff\xff\xff\xff")
@example(Kind.REQUEST, b"\x91" * 5000)
@example(Kind.DELTAS, b"\x92\x00" + b"\x91" * 5000)
def test_arbitrary_bodies_are_refused_or_read_and_nothing_else(kind: Kind, body: bytes) -> None:
    refused_or_read(bytes((wire.VERSION, kind, 0, 2)) + b"id" + body)


@given(any_body, st.data())
def test_damaged_messages_are_refused_or_read_and_nothing_else(
    body: message_bodies.AnyBody, data: st.DataObject
) -> None:
    damaged = bytearray(wire.encode(body, "id"))
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    refused_or_read(bytes(damaged))


def refused_or_read(message: bytes) -> None:
    try:
        body = read(message)
        if isinstance(body, message_bodies.Deltas):
            for item in body.items:
                unpack_delta(item)
    except (WireError, RequestError):
        pass


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x03\x07\x00",
        b"\x03\x07\x00\x00",
        b"\x06\x07\x00\x00\x91\xcb" + bytes(8),
        b"\x02\x07\x00\x00\x91\xcb" + bytes(8),
        b"\x03\x00\x00\x00\x90",
        b"\x03\x06\x01\x01" + b"x" * 257 + b"\x90",
        b"\x03\x06\x00\x03id",  # an id longer than the message
        b"\x03\x06\x00\x01\xff\x90",
        b"\x03\x06\x00\x00\x91\x01",  # a field too many
        b"\x03\x06\x00\x00\x90\x90",  # bytes after the end
        b"\x03\x07\x00\x00\x91" + msgspec.msgpack.encode("1.0"),
        b"\x03\x07\x00\x00\x91\x00" + bytes(70_000),
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(WireError):
        read(message)


def test_an_unknown_field_of_a_request_is_refused_and_of_a_hello_let_pass() -> None:
    hello = {"oldest_version": 1, "newest_version": 1, "novelty": 1}
    body = read(b"\x03\x01\x00\x00" + msgspec.msgpack.encode(hello))
    assert isinstance(body, message_bodies.Hello)
    request = {"prompt": "x", "novelty": 1}
    with pytest.raises(WireError, match="novelty"):
        read(b"\x03\x03\x00\x00" + msgspec.msgpack.encode(request))


def test_a_peer_that_knows_no_token_ids_is_told_to_update() -> None:
    older = message_bodies.Hello(oldest_version=1, newest_version=1)
    reply = answer_hello(older, instance="i", cards=(CARD,), limits=AnswerLimits())
    assert isinstance(reply, message_bodies.HelloRefused) and "update the device" in reply.message
    ids = Envelope(1, Kind.REQUEST, "i", msgspec.msgpack.encode({"prompt_token_ids": [1]}))
    with pytest.raises(WireError, match="version 1, not 3"):
        wire.open_body(ids)


def test_values_out_of_range_are_named_and_not_taken_for_damage() -> None:
    request = {"prompt": "x", "sampling": {"temperature": -1.0}}
    with pytest.raises(RequestError, match="temperature"):
        read(b"\x03\x03\x00\x00" + msgspec.msgpack.encode(request))


@pytest.mark.parametrize("wanted", [{"ignore_eos": True}, {"min_tokens": 5}])
def test_an_answer_may_go_on_behind_its_end_over_the_link_too(wanted: dict[str, Any]) -> None:
    request = Request(prompt="x", sampling=Sampling(**wanted))
    assert read(wire.encode(request)) == request
    held = {"prompt": "x", "sampling": {"json_schema": {"type": "object"}, **wanted}}
    with pytest.raises(RequestError, match="leave them out, or the schema"):
        read(b"\x03\x03\x00\x00" + msgspec.msgpack.encode(held))


def test_how_urgent_a_request_is_crosses_the_wire() -> None:
    request = ForwardedRequest(prompt="x", priority="batch")
    assert read(wire.encode(request)) == request
    urgent = {"prompt": "x", "priority": "at once"}
    with pytest.raises(WireError, match="priority"):
        read(b"\x03\x03\x00\x00" + msgspec.msgpack.encode(urgent))


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    "holding",
    [
        lambda value: Request(prompt="x", sampling=Sampling(json_schema=value)),
        lambda value: Request(prompt="x", tools=({}, value)),
    ],
)
def test_what_is_free_form_may_be_deep_but_not_bottomless(
    holding: Callable[[dict[str, Any]], Request],
) -> None:
    fits = holding(nested(wire.MAX_DEPTH))
    assert read(wire.encode(fits)) == fits
    with pytest.raises(RequestError, match="nested deeper"):
        read(wire.encode(holding(nested(wire.MAX_DEPTH + 1))))


def test_a_schema_holds_only_what_json_can() -> None:
    odd = Request(prompt="x", sampling=Sampling(json_schema={"x": b"bytes"}))
    with pytest.raises(RequestError, match="JSON cannot"):
        read(wire.encode(odd))


def test_cut_off_confidences_are_refused() -> None:
    packed = message_bodies.PackedDelta("x", 0, (), struct.pack("<2f", 1, 2), None, False)
    with pytest.raises(WireError, match="cut off"):
        unpack_delta(packed)


def test_text_that_is_not_unicode_is_a_bad_request() -> None:
    with pytest.raises(RequestError, match="cannot be sent"):
        wire.encode(Request(prompt="\ud800x"))


def test_a_message_larger_than_the_link_carries_is_not_made() -> None:
    with pytest.raises(RequestError, match="at most 8388608; shorten it"):
        wire.encode(Request(prompt="x" * wire.MAX_MESSAGE_BYTES))


def test_a_body_larger_than_its_kind_allows_is_refused() -> None:
    body = msgspec.msgpack.encode(["failed", "x" * 100_000])
    with pytest.raises(WireError, match="too many"):
        wire.open_body(Envelope(wire.VERSION, Kind.ERROR, "", body))


def _crowded(field: str, count: int) -> bytes:
    """A REQUEST of a few megabytes whose `field` is a list of so many empty lists."""
    lists = b"\xdd" + count.to_bytes(4, "big") + b"\x90" * count
    said = msgspec.msgpack.encode
    if field == "json_schema":
        packed = said("sampling") + b"\x81" + said(field) + b"\x81" + said("enum") + lists
    elif field == "tool":
        packed = said("tools") + b"\x91\x81" + said("parameters") + lists
    else:
        packed = said(field) + lists
    id_ = b"x"
    body = b"\x83" + said("id") + said("x") + said("prompt") + said("hi") + packed
    return bytes([wire.VERSION, Kind.REQUEST, 0, len(id_)]) + id_ + body


@pytest.mark.parametrize(
    "field", ["json_schema", "tool", "tools", "messages", "prompt_token_ids", "unknown"]
)
def test_a_crowd_of_elements_is_refused_before_it_is_built(field: str) -> None:
    message = _crowded(field, 2_000_000)
    tracemalloc.start()
    with pytest.raises((WireError, RequestError)):
        wire.open_body(wire.open_envelope(message))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(message), "built, they would take sixty times their bytes"
