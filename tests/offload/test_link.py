from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import msgspec
import pytest
import zmq

from backbone.errors import NearfarError
from offload.engine import Engine
from offload.errors import (
    CloudBusy,
    CloudFailed,
    CloudStopped,
    CloudUnreachable,
    ContextLengthError,
    EngineStopped,
    KeyRefused,
    LinkError,
    Overloaded,
    RequestError,
    SettingsError,
    Unsupported,
)
from offload.link import bodies, wire
from offload.link.answers import AnswerLimits
from offload.link.client import CloudLink
from offload.link.health import CloudStanding, Tempo
from offload.link.keys import DeviceList, KeyPair
from offload.link.server import LinkServer
from offload.messages import Budget, Delta, Finish, Privacy, Usage
from tests.offload.links import (
    answer,
    ask,
    free_port,
    linked,
    raw_device,
    receive,
    send,
    serving,
    text_of,
    until,
)
from tests.offload.scripted import CARD, ScriptedEngine, delta


async def test_an_answer_arrives_whole_and_in_order() -> None:
    engine = ScriptedEngine()
    async with linked(engine) as (_, link):
        items = await answer(link, request := ask(deadline_s=5))
    assert items[:-1] == [delta("one", 0), delta(" two", 1), delta(" three", 2)]
    assert isinstance(items[-1], Finish) and items[-1].reason == "stop"
    assert engine.requests == [request]


async def test_the_link_is_an_engine_and_carries_the_card() -> None:
    async with linked(ScriptedEngine()) as (_, link):
        assert isinstance(link, Engine)
        with pytest.raises(CloudUnreachable, match="connect"):
            link.card()
        assert await link.connect() == CARD == link.card()


async def test_works_over_ipc_without_keys(tmp_path: object) -> None:
    async with serving(ScriptedEngine(), endpoint=f"ipc://{tmp_path}/link") as server:
        link = CloudLink(server.endpoint)
        assert text_of(await answer(link, ask())) == "one two three"
        await link.aclose()


async def test_many_requests_at_once_do_not_mix() -> None:
    engine = ScriptedEngine(script=lambda request: [f"{request.prompt}{i} " for i in range(20)])
    async with linked(engine) as (_, link):
        answers = await asyncio.gather(*(answer(link, ask(f"q{n}.")) for n in range(50)))
    for n, items in enumerate(answers):
        assert text_of(items) == "".join(f"q{n}.{i} " for i in range(20))


async def test_bytes_are_those_of_the_frames() -> None:
    async with linked(ScriptedEngine()) as (_, link):
        items = await answer(link, request := ask())
    finish = items[-1]
    assert isinstance(finish, Finish)
    assert finish.usage.bytes_sent == wire.size_bytes(wire.encode(request, request.id))
    assert finish.usage.bytes_received > sum(len(item.text) for item in items[:-1])  # type: ignore[union-attr]
    assert finish.usage.completion_tokens == 3


async def test_closing_the_iterator_frees_the_engine() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (server, link):
        async with contextlib.aclosing(link.generate(request := ask())) as items:  # type: ignore[type-var]
            assert (await anext(items)).text == "one"
            assert engine.running == {request.id}
        await engine.until(lambda: engine.cancelled == [request.id])
        assert link.health().in_flight == 0
        await until(lambda: server.num_in_flight == 0)


async def test_cancelling_the_reading_task_frees_the_engine() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (_, link):
        task = asyncio.create_task(answer(link, request := ask()))
        await engine.until(lambda: engine.running == {request.id})
        task.cancel()
        await engine.until(lambda: engine.cancelled == [request.id])
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_cloud_keeps_the_deadline() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (_, link):
        items = await answer(link, request := ask(deadline_s=0.1))
        assert text_of(items) == "one"
        assert isinstance(items[-1], Finish) and items[-1].reason == "deadline"
        assert items[-1].usage.completion_tokens == 1
        await engine.until(lambda: engine.cancelled == [request.id])


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (RequestError("top_k is silly"), RequestError, "top_k is silly"),
        (ContextLengthError(9000, 4096), ContextLengthError, "has 9000 tokens"),
        (Unsupported("no schemas here"), Unsupported, "no schemas"),
        (Overloaded("the queue is full", 7.5), CloudBusy, "the queue is full"),
        (EngineStopped("the engine is closed"), CloudStopped, "is closed"),
        (CloudFailed("the GPU is gone; call someone"), CloudFailed, "call someone"),
        (ZeroDivisionError("secret prompt"), CloudFailed, "ZeroDivisionError"),
    ],
)
async def test_an_engines_error_reaches_the_device_and_the_next_request_is_served(
    error: Exception, kind: type[NearfarError], says: str
) -> None:
    engine = ScriptedEngine(script=lambda r: ["a", "b"], error=error, error_before=1)
    async with linked(engine) as (_, link):
        with pytest.raises(kind, match=says) as caught:
            await answer(link, ask())
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value)
        engine._error = None
        assert text_of(await answer(link, ask())) == "ab"


async def test_a_busy_cloud_says_when_to_ask_again() -> None:
    engine = ScriptedEngine(error=Overloaded("the queue is full", retry_after_s=7.5))
    async with linked(engine) as (_, link):
        with pytest.raises(Overloaded) as caught:
            await answer(link, ask())
        assert caught.value.retry_after_s == 7.5
        assert isinstance(caught.value, LinkError), "so that the device answers itself"


@pytest.mark.parametrize("mid_answer", [False, True])
async def test_bytes_that_left_are_known_where_the_cloud_fails(mid_answer: bool) -> None:
    engine = ScriptedEngine(error=CloudFailed("gone"), error_before=int(mid_answer))
    async with linked(engine) as (_, link):
        with pytest.raises(LinkError) as caught:
            await answer(link, request := ask())
    assert caught.value.bytes_sent == wire.size_bytes(wire.encode(request, request.id))


async def test_requests_that_fail_together_each_know_their_own_bytes() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine, patience_s=0) as (server, link):
        requests = [ask("x" * length) for length in (10, 1000)]
        tasks = [asyncio.create_task(answer(link, request)) for request in requests]
        await engine.until(lambda: len(engine.running) == 2)
        await server.aclose()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    sent = [error.bytes_sent for error in errors if isinstance(error, LinkError)]
    assert sent == [wire.size_bytes(wire.encode(request, request.id)) for request in requests]


async def test_nothing_left_where_nothing_answers() -> None:
    link = CloudLink(f"tcp://127.0.0.1:{free_port()}", connect_timeout_s=0.1)
    with pytest.raises(CloudUnreachable) as caught:
        await answer(link, ask())
    assert caught.value.bytes_sent == 0
    await link.aclose()


async def test_those_who_wait_for_a_cloud_that_is_gone_wait_together() -> None:
    link = CloudLink(f"tcp://127.0.0.1:{free_port()}", connect_timeout_s=0.2)
    began = time.monotonic()
    errors = await asyncio.gather(*(answer(link, ask()) for _ in range(20)), return_exceptions=True)
    assert time.monotonic() - began < 1
    assert {type(error) for error in errors} == {CloudUnreachable}
    await link.aclose()


async def test_closing_tells_those_who_wait_for_a_connection() -> None:
    link = CloudLink(f"tcp://127.0.0.1:{free_port()}", connect_timeout_s=30)
    tasks = [asyncio.create_task(answer(link, ask())) for _ in range(2)]
    await until(lambda: link._line._opening is not None)
    await link.aclose()
    for task in tasks:
        with pytest.raises(CloudUnreachable, match="closed"):
            await asyncio.wait_for(task, 1)


async def test_an_engine_that_ends_without_finish_is_an_error() -> None:
    async with linked(ScriptedEngine(finish=None)) as (_, link):
        with pytest.raises(CloudFailed, match="mid-answer"):
            await answer(link, ask())


async def test_nothing_there_is_unreachable_and_names_the_remedy() -> None:
    link = CloudLink(f"tcp://127.0.0.1:{free_port()}", connect_timeout_s=0.2)
    with pytest.raises(CloudUnreachable, match=r"nothing answers at .*nearfar cloud serve"):
        await answer(link, ask())
    await link.aclose()


async def test_a_listener_that_is_no_cloud_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = CloudLink(f"tcp://127.0.0.1:{listener.getsockname()[1]}", connect_timeout_s=0.3)
        with pytest.raises(CloudUnreachable, match="does not answer as a nearfar cloud"):
            await link.connect()
        await link.aclose()


async def test_an_endpoint_that_is_none_is_a_setting_to_mend() -> None:
    link = CloudLink("ipc://" + "x" * 300)
    with pytest.raises(SettingsError, match=r"cloud\.url"):
        await link.connect()


async def test_a_silent_cloud_is_known_to_be_dead_within_two_seconds() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine, patience_s=0) as (server, link):
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        assert link.health().alive
        server._pump._on_message = lambda frames: None  # the host hangs, its kernel does not
        began = time.monotonic()
        with pytest.raises(CloudUnreachable, match="silent"):
            await asyncio.wait_for(task, 5)
        assert time.monotonic() - began < 2
        assert not link.health().alive


async def test_a_stopped_cloud_is_known_at_once_and_a_new_one_is_found() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    first = LinkServer(engine)
    await first.start()
    link = CloudLink(endpoint := first.endpoint, patience_s=0)
    task = asyncio.create_task(answer(link, ask()))
    await engine.until(lambda: len(engine.running) == 1)
    await first.aclose()
    with pytest.raises(CloudUnreachable, match="closed the connection"):
        await asyncio.wait_for(task, 1)
    async with serving(ScriptedEngine(), endpoint=endpoint):
        assert text_of(await answer(link, ask())) == "one two three"
    await link.aclose()


async def test_closing_the_link_frees_the_engine_and_fails_what_is_read() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with linked(engine) as (_, link):
        items = link.generate(request := ask())
        await anext(items)  # type: ignore[arg-type]
        await link.aclose()
        await engine.until(lambda: engine.cancelled == [request.id])
        with pytest.raises(CloudUnreachable, match="closed"):
            await anext(items)  # type: ignore[arg-type]


async def test_an_idle_link_stays_alive_and_measures_the_round_trip() -> None:
    async with linked(ScriptedEngine()) as (server, link):
        link._line.tempo = Tempo(ping_after_s=0.02, dead_after_s=0.5)
        await link.connect()
        await until(lambda: link.health().rtt_s is not None)
        health = link.health()
        assert health.alive and 0 < (health.rtt_s or 0) < 0.5
        assert abs(health.clock_offset_s or 0) < 0.5
        assert len(server._exchange.peers) == 1


async def test_the_standing_tells_who_waits_and_for_how_long() -> None:
    hold = asyncio.Event()
    finish = Finish(reason="stop", usage=Usage(queue_s=0.25))
    engine = ScriptedEngine(hold=hold, hold_before=0, finish=finish)
    async with linked(engine) as (_, link):
        link._line.tempo = Tempo(ping_after_s=0.02, dead_after_s=0.5)
        assert link.standing() == CloudStanding(healthy=True), "nothing speaks against it yet"
        tasks = [asyncio.create_task(answer(link, ask())) for _ in range(2)]
        await until(lambda: link.standing().num_waiting == 2)
        assert link.standing().queue_s is None
        hold.set()
        await asyncio.gather(*tasks)
        await until(lambda: link.standing().queue_s == 0.25)
        standing = link.standing()
        assert standing.num_waiting == 0
        assert standing.first_piece_s is not None and standing.first_piece_s > 0
        assert standing.rtt_s is not None and standing.rtt_s > 0


async def test_a_cloud_is_not_healthy_from_a_loss_until_it_answers_again() -> None:
    first = LinkServer(ScriptedEngine())
    await first.start()
    link = CloudLink(endpoint := first.endpoint, connect_timeout_s=0.2)
    await link.connect()
    rtt_s = link.standing().rtt_s
    await first.aclose()
    await until(lambda: not link.standing().healthy)
    with pytest.raises(CloudUnreachable):
        await link.connect()
    assert link.standing() == CloudStanding(healthy=False, rtt_s=rtt_s), "the last known figures"
    async with serving(ScriptedEngine(), endpoint=endpoint):
        await link.connect()
        assert link.standing().healthy
        await link.aclose()


async def test_the_wrong_server_key_is_refused() -> None:
    device_keys, devices = KeyPair.new(), DeviceList()
    devices.add("laptop", device_keys.public)
    async with serving(ScriptedEngine(), keys=KeyPair.new(), devices=devices) as server:
        wrong = KeyPair.new().public
        link = CloudLink(server.endpoint, server_key=wrong, device_keys=device_keys)
        with pytest.raises(KeyRefused, match="not the cloud whose key we hold"):
            await link.connect()
        await link.aclose()


async def test_an_unknown_device_is_refused_and_a_known_one_is_served_meanwhile() -> None:
    async with linked(ScriptedEngine()) as (server, link):
        assert server._keys is not None
        stranger = CloudLink(
            server.endpoint, server_key=server._keys.public, device_keys=KeyPair.new()
        )
        with pytest.raises(KeyRefused, match="does not know this device's key"):
            await stranger.connect()
        await stranger.aclose()
        assert text_of(await answer(link, ask())) == "one two three"


async def test_a_device_let_in_while_the_cloud_runs_may_come() -> None:
    server_keys, device_keys, devices = KeyPair.new(), KeyPair.new(), DeviceList()
    async with serving(ScriptedEngine(), keys=server_keys, devices=devices) as server:
        link = CloudLink(server.endpoint, server_key=server_keys.public, device_keys=device_keys)
        with pytest.raises(KeyRefused):
            await link.connect()
        devices.add("laptop", device_keys.public)
        assert await link.connect() == CARD
        await link.aclose()


async def test_a_plaintext_device_is_refused_where_keys_are_wanted() -> None:
    async with linked(ScriptedEngine()) as (server, _):
        plain = CloudLink(server.endpoint)
        with pytest.raises(KeyRefused, match="wants keys"):
            await plain.connect()
        await plain.aclose()


async def test_keys_for_a_cloud_that_takes_none_are_refused() -> None:
    async with serving(ScriptedEngine()) as server:
        link = CloudLink(
            server.endpoint, server_key=KeyPair.new().public, device_keys=KeyPair.new()
        )
        with pytest.raises(KeyRefused, match="takes no keys"):
            await link.connect()
        await link.aclose()


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5555", "tcp://192.168.1.2:5555", "tcp://*:1"])
def test_no_keys_no_network(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="keys"):
        LinkServer(ScriptedEngine(), endpoint)
    with pytest.raises(SettingsError, match="nearfar link join"):
        CloudLink(endpoint)


async def test_a_taken_port_is_a_setting_to_mend() -> None:
    async with serving(ScriptedEngine()) as server:
        with pytest.raises(SettingsError, match="choose another"):
            await LinkServer(ScriptedEngine(), server.endpoint).start()


async def test_local_only_and_costly_requests_do_not_leave() -> None:
    engine = ScriptedEngine()
    async with linked(engine) as (_, link):
        with pytest.raises(RequestError, match="local_only"):
            await answer(link, ask(privacy=Privacy.LOCAL_ONLY))
        with pytest.raises(RequestError, match="10 are allowed"):
            await answer(link, ask(budget=Budget(max_bytes_sent=10)))
        assert link.health().bytes_sent == 0
    assert engine.requests == []


async def test_too_many_requests_are_refused_and_the_running_ones_go_on() -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    limits = AnswerLimits(max_streams_per_device=2)
    async with serving(engine, limits=limits) as server:
        link = CloudLink(server.endpoint)
        tasks = [asyncio.create_task(answer(link, ask())) for _ in range(2)]
        await engine.until(lambda: len(engine.running) == 2)
        with pytest.raises(CloudBusy, match="2 requests in flight"):
            await answer(link, ask())
        hold.set()
        assert [text_of(items) for items in await asyncio.gather(*tasks)] == ["one two three"] * 2
        await link.aclose()


async def test_an_older_cloud_tells_a_newer_device_what_to_update() -> None:
    async with serving(ScriptedEngine()) as server:
        with raw_device(server.endpoint) as device:
            hello = {"oldest_version": 7, "newest_version": 9, "device": "x", "novelty": [1]}
            await send(device, [b"\x07\x01", msgspec.msgpack.encode(hello)])
            refused = wire.open_body(wire.open_envelope(await receive(device)))
    assert isinstance(refused, bodies.Refused)
    assert "7 to 9" in refused.message and "update the cloud" in refused.message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (bodies.Refused(code="version", message="update the device"), "update the device"),
        (
            bodies.Ready(
                version=7,
                cards=(CARD,),
                instance="",
                window=1,
                max_message_bytes=1,
                max_streams=1,
                clock_s=0,
            ),
            "version 7",
        ),
    ],
)
async def test_a_device_says_why_a_cloud_of_another_age_will_not_do(
    body: bodies.AnyBody, says: str
) -> None:
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    link = CloudLink(f"tcp://127.0.0.1:{port}")
    task = asyncio.create_task(link.connect())
    who = (await receive(router))[0]
    router.send_multipart([who, *wire.encode(body)])
    with pytest.raises(CloudFailed, match=says):
        await task
    await link.aclose()
    router.close(linger=0)


GARBAGE = [
    [b""],
    [b"", b"", b"", b""],
    [b"\x01"] * 20,
    [b"\x01\x03id", b"\xc1"],
    [b"\x01\x03id", b"\xdd\xff\xff\xff\xff"],
    [b"\x01\x03id", b"\x91" * 100_000],
    [b"\x01\x63id", b"\x90"],
    [b"\x01\x06\xff\xfe", b"\x90"],
    [b"\x01\x06" + b"x" * 1000, b"\x90"],
    [b"\x01\x01", b"\x80"],
    [b"\x09\x07", b"\x91\x00"],
    [b"\x01\x02", b"\x80"],
]


@pytest.mark.parametrize("after_hello", [False, True])
async def test_garbage_harms_nobody(after_hello: bool) -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    async with serving(engine) as server:
        link = CloudLink(server.endpoint)
        task = asyncio.create_task(answer(link, ask()))
        await engine.until(lambda: len(engine.running) == 1)
        with raw_device(server.endpoint) as device:
            if after_hello:
                await send(device, wire.encode(bodies.Hello(oldest_version=1, newest_version=1)))
                await receive(device)
            for frames in GARBAGE:
                await send(device, frames)
            await send(device, wire.encode(bodies.Hello(oldest_version=1, newest_version=1)))
            while wire.open_envelope(await receive(device)).kind is not bodies.Kind.READY:
                pass
        assert server.num_bad_messages >= len(GARBAGE) // 2
        hold.set()
        assert text_of(await task) == "one two three"
        await link.aclose()


async def test_a_message_too_large_breaks_only_its_own_connection() -> None:
    async with serving(ScriptedEngine()) as server:
        link = CloudLink(server.endpoint)
        await link.connect()
        with raw_device(server.endpoint) as device:
            hello = wire.encode(bodies.Hello(oldest_version=1, newest_version=1))
            await send(device, [hello[0], bytes(wire.MAX_MESSAGE_BYTES + 1)])
            await send(device, hello)
            assert wire.open_envelope(await receive(device)).kind is bodies.Kind.READY
        assert text_of(await answer(link, ask())) == "one two three"
        with pytest.raises(RequestError, match="shorten it"):
            await answer(link, ask("x" * (wire.MAX_MESSAGE_BYTES + 1)))
        await link.aclose()


async def test_a_text_that_is_not_unicode_is_a_bad_request() -> None:
    async with linked(ScriptedEngine()) as (_, link):
        with pytest.raises(RequestError, match="msgpack"):
            await answer(link, ask("\ud800"))


@pytest.mark.parametrize("said", ["\ud800", Delta(token_ids=(2**70,))])
async def test_an_engine_that_says_what_cannot_be_sent_fails_its_answer(
    said: str | Delta,
) -> None:
    async with linked(ScriptedEngine(["one", said, "two"])) as (server, link):
        with pytest.raises(CloudFailed, match="cannot be heard"):
            await answer(link, ask())
        await until(lambda: server.num_in_flight == 0)


async def test_a_long_lived_connection_remembers_only_what_the_cloud_keeps() -> None:
    limits = AnswerLimits(resume_s=0, max_remembered_ids=5)
    async with linked(ScriptedEngine(), limits=limits) as (server, link):
        for _ in range(20):
            await answer(link, ask())
        (peer,) = server._exchange.peers.all()
        await until(lambda: not peer.asking and not server._exchange.peers._listening)
