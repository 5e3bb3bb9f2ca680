"""What a cloud says of itself and of its answers is believed only as far as it can be."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from offload.errors import CloudBusy, CloudFailed, LinkError
from offload.link import message_bodies, wire
from offload.link.client import CloudLink
from offload.link.message_bodies import Kind
from offload.messages import (
    Alternative,
    Confidence,
    Delta,
    Finish,
    Request,
    Route,
    Sampling,
    Usage,
)
from tests.offload.link.lying import READY, LyingCloud, pieces, raw
from tests.offload.links import answer
from tests.waiting import until

ASKED = Request(prompt="2 + 2?", sampling=Sampling(max_tokens=8))
Answer = Callable[[str], Iterable[bytes]]


async def answered(cloud: LyingCloud, request: Request = ASKED) -> list[Delta | Finish]:
    async with cloud.listening(), aclosing(CloudLink(cloud.endpoint)) as link:
        return [item async for item in link.generate(request)]


def ended(about: str, num_pieces: int, **told: Any) -> bytes:
    return wire.encode(message_bodies.End(num_pieces, Finish(reason="stop", **told)), about)


def of_many(count: int, delta: Delta) -> Answer:
    """An answer of so many pieces in messages of 32, and its end."""

    def answer(about: str) -> Iterable[bytes]:
        for first in range(0, count, 32):
            yield wire.encode(pieces([delta] * min(32, count - first), first), about)
        yield ended(about, count)

    return answer


@pytest.mark.parametrize(
    ("count", "delta"),
    [
        (40, Delta(text="a", token_ids=(1,))),
        (40, Delta(text="a", confidence=(Confidence(-1.0, 1.0, 1.0),))),
        (2, Delta(text="a" * 5_000)),
        (40, Delta(text="a", replaces=True)),
        (1, Delta(text="a", token_ids=(1,), alternatives=((Alternative(1, "a", -1.0),) * 99,))),
    ],
    ids=["tokens", "confidences", "text", "beginnings", "alternatives"],
)
async def test_more_than_was_asked_for_is_no_answer(count: int, delta: Delta) -> None:
    with pytest.raises(CloudFailed, match="more than was asked for"):
        await answered(LyingCloud(answer=of_many(count, delta)))


async def test_the_liar_is_told_to_stop() -> None:
    much = [Delta(text="a" * 99_000)]
    cloud = LyingCloud(answer=lambda about: [wire.encode(pieces(much), about)])
    async with cloud.listening(), aclosing(CloudLink(cloud.endpoint)) as link:
        with pytest.raises(CloudFailed):
            await answer(link, ASKED)
        await until(lambda: Kind.CANCEL in [message.kind for message in cloud.heard])


async def test_figures_that_cannot_be_are_brought_within_bounds() -> None:
    usage = Usage(
        prompt_tokens=-5,
        cached_tokens=2**62,
        completion_tokens=2**62,
        queue_s=math.nan,
        prefill_s=-1.0,
        decode_s=math.inf,
        bytes_sent=-1,
        cost=-1e300,
        placeholders_in_links=-3,
    )
    route = Route(served_by="cloud", reason="x" * 1000)
    delta = Delta(text="4", token_ids=(1,), confidence=(Confidence(math.nan, -1.0, math.inf),))

    def answer(about: str) -> Iterable[bytes]:
        yield wire.encode(pieces([delta]), about)
        yield ended(about, 1, usage=usage, route=route, dropped_tokens=-1)

    said, finish = await answered(LyingCloud(answer=answer))
    assert isinstance(said, Delta) and isinstance(finish, Finish)
    assert said.confidence == (Confidence(-1e4, 0.0, 1e4),)
    assert finish.route is None and finish.dropped_tokens == 0
    assert finish.usage.completion_tokens == 16 and finish.usage.prompt_tokens == 0
    assert finish.usage.cached_tokens <= 1 << 20 and finish.usage.cost == 0.0
    for name in ("queue_s", "prefill_s", "decode_s"):
        assert 0.0 <= getattr(finish.usage, name) <= 86_400.0
    assert finish.usage.bytes_sent > 0 and finish.usage.placeholders_in_links == 0


async def test_tokens_that_came_are_counted_whatever_is_said_of_them() -> None:
    answer = of_many(8, Delta(text="a", token_ids=(1,)))
    *_, finish = await answered(LyingCloud(answer=answer))
    assert isinstance(finish, Finish) and finish.usage.completion_tokens == 8


WRONG_ABOUT: dict[str, Answer] = {
    "another request": lambda _: [
        wire.encode(pieces([Delta(text="not for you")]), "another"),
        ended("another", 1),
    ],
    "nothing": lambda _: [],
    "pieces without any": lambda about: [wire.encode(message_bodies.Deltas(0, ()), about)] * 99,
    "a beginning": lambda about: [wire.encode(pieces([Delta(text="The")]), about)],
}


@pytest.mark.parametrize("answer", WRONG_ABOUT.values(), ids=WRONG_ABOUT)
async def test_an_answer_that_does_not_come_ends_at_the_deadline(answer: Answer) -> None:
    request = msgspec.structs.replace(ASKED, deadline_s=0.05)
    *said, finish = await answered(LyingCloud(answer=answer), request)
    assert isinstance(finish, Finish) and finish.reason == "deadline"
    assert "".join(each.text for each in said if isinstance(each, Delta)) in ("", "The")


def _packed(**changed: Any) -> list[Any]:
    plain = {"text": "a", "index": 0, "token_ids": [1], "confidence": b"", "source": None}
    return [*{**plain, **changed}.values(), False, [], []]


DAMAGED: dict[str, Answer] = {
    "a gap": lambda about: [wire.encode(pieces([Delta(text="a")], 7), about)],
    "a count that is too high": lambda about: [ended(about, 3)],
    "a token below zero": lambda about: [raw(Kind.DELTAS, [0, [_packed(token_ids=[-1])]], about)],
    "a place below zero": lambda about: [raw(Kind.DELTAS, [0, [_packed(index=-1)]], about)],
    "half a confidence": lambda about: [raw(Kind.DELTAS, [0, [_packed(confidence=b"x")]], about)],
    "garbage": lambda about: [raw(Kind.DELTAS, {"a": 1}, about)],
}


@pytest.mark.parametrize("answer", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_answer_fails_alone(answer: Answer) -> None:
    with pytest.raises(CloudFailed, match="damaged"):
        await answered(LyingCloud(answer=answer))


def _ready(**changed: Any) -> bytes:
    return raw(Kind.READY, msgspec.to_builtins(READY) | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"cards": []},
        {"window": 0},
        {"window": -5},
        {"window": 2**40},
        {"max_streams": -1},
        {"clock_s": math.nan},
        {"clock_s": -math.inf},
        {"cards": [msgspec.to_builtins(READY.cards[0]) | {"max_model_len": -1}]},
        {"cards": [msgspec.to_builtins(READY.cards[0])] * 5000},
    ],
    ids=str,
)
async def test_a_greeting_that_makes_no_sense_is_refused(changed: dict[str, Any]) -> None:
    cloud = LyingCloud(ready=_ready(**changed))
    async with cloud.listening(), aclosing(CloudLink(cloud.endpoint)) as link:
        with pytest.raises(CloudFailed, match="another protocol"):
            await link.connect()


async def test_a_name_is_no_longer_than_a_line() -> None:
    card = msgspec.structs.replace(READY.cards[0], name="n" * 1_000_000, runtime="r" * 1_000_000)
    cloud = LyingCloud(ready=msgspec.structs.replace(READY, cards=(card,)))
    async with cloud.listening(), aclosing(CloudLink(cloud.endpoint)) as link:
        known = await link.connect()
    assert len(known.name) == len(known.runtime) == 200


def _pong(**load: Any) -> bytes:
    plain = {"in_flight": 0, "num_waiting": 0, "queue_s": None, "first_piece_s": None}
    engine = load.pop("engine", None)
    return raw(Kind.PONG, [1.0, 1.0, [*(plain | load).values(), engine], b""])


@pytest.mark.parametrize(
    "load",
    [
        {"in_flight": -1},
        {"num_waiting": 2**60},
        {"queue_s": math.nan},
        {"first_piece_s": -1.0},
        {"engine": {"kv_cache_usage": math.nan}},
        {"engine": {"kv_cache_usage": 1e300}},
        {"engine": {"num_running": -7}},
    ],
    ids=str,
)
async def test_a_load_that_cannot_be_ends_the_connection(load: dict[str, Any]) -> None:
    cloud = LyingCloud(pong=_pong(**load))
    async with cloud.listening(), aclosing(CloudLink(cloud.endpoint)) as link:
        await link.connect()
        with pytest.raises((LinkError, asyncio.TimeoutError)):
            await link.ping(timeout_s=0.2)
        assert link.report() is None and link.snapshot().num_waiting == 0


@pytest.mark.parametrize("wait_s", [math.nan, math.inf, -1.0, 1e300])
async def test_a_wait_that_is_no_time_is_not_waited_for(wait_s: float) -> None:
    failure = message_bodies.Failure("busy", "too much to do", wait_s)
    cloud = LyingCloud(answer=lambda about: [wire.encode(failure, about)])
    with pytest.raises(CloudBusy) as told:
        await answered(cloud)
    assert 0.0 <= told.value.retry_after_s <= 86_400.0
