"""Any OpenAI-compatible server as an engine: our own, llama.cpp's, and ones that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from offload.asker import asked_by
from offload.errors import (
    CloudFailed,
    CloudUnreachable,
    RequestError,
    Unsupported,
)
from offload.hybrid.hybrid import Hybrid
from offload.messages import (
    Delta,
    Finish,
    Message,
    Privacy,
    Request,
    Sampling,
    ToolCall,
    Usage,
)
from offload.pair import EDGE_MODEL
from offload.tool_calls.call_reader import read_whole
from offload.tool_calls.toolbox import Toolbox
from offload.upstream.client import Upstream
from tests.offload.scripted import ScriptedEngine
from tests.offload.upstreams import CHAT, piece, read, says, sse, upstream
from tests.serve.faces import TOOL, listening
from tests.waiting import until_read

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def chained() -> AsyncIterator[tuple[ScriptedEngine, Upstream]]:
    """Our own endpoint over a real socket, and an engine that asks it."""
    engine = ScriptedEngine(finish=Finish(reason="length", usage=Usage(prompt_tokens=4)))
    async with listening(engine) as server, aclosing(Upstream(f"{server.url}/v1")) as reached:
        yield engine, reached


async def test_another_nearfar_is_named_by_its_model_and_asked_to_choose() -> None:
    hybrid = Hybrid(ScriptedEngine(), None)
    async with listening(hybrid) as server, aclosing(Upstream(f"{server.url}/v1")) as reached:
        assert (await reached.connect()).name == "scripted"
        assert (await read(reached))[0] == "one two three"
    asked: list[str] = []

    def reply(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            names = ("auto", "auto-local", "Big", "small")
            data = [{"id": name, "owned_by": "nearfar"} for name in names]
            return httpx.Response(200, json={"data": data})
        asked.append(json.loads(request.content)["model"])
        return httpx.Response(200, content=sse(piece("1", "stop"), "[DONE]"))

    for wished, named, sent in (("", "Big", "auto"), ("auto-local", "Big", "auto-local")):
        engine = Upstream("http://x/v1", model=wished, transport=httpx.MockTransport(reply))
        assert (await engine.connect()).name == named
        await read(engine)
        assert asked.pop() == sent
    other = Upstream("http://x/v1", model="small", transport=httpx.MockTransport(reply))
    assert (await other.connect()).name == "small"


async def test_our_own_endpoint_is_an_engine(chained: tuple[ScriptedEngine, Upstream]) -> None:
    engine, reached = chained
    card = await reached.connect()
    text, finish = await read(reached)
    assert (card.name, card.max_model_len, card.runtime) == ("scripted", 4096, "nearfar")
    assert text == "one two three"
    assert finish.reason == "length" and finish.usage.prompt_tokens == 4
    assert finish.route is not None and finish.route.served_by == "cloud"
    assert engine.requests[-1].sampling.max_tokens == 9


async def test_every_wish_arrives(chained: tuple[ScriptedEngine, Upstream]) -> None:
    engine, reached = chained
    sampling = Sampling(
        max_tokens=5,
        temperature=0.5,
        top_p=0.75,
        top_k=3,
        min_p=0.25,
        repetition_penalty=1.5,
        seed=7,
        stop=("x",),
        logit_bias={3: 1.5},
        json_schema={"type": "object"},
    )
    call = ToolCall(id="c", name="look", arguments="{}")
    messages = (
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="42", tool_call_id="c"),
    )
    await read(reached, Request(messages=messages, sampling=sampling, tools=(TOOL,)))
    arrived = engine.requests[-1]
    assert arrived.sampling == sampling and arrived.messages == messages
    assert arrived.tools[0]["function"]["name"] == "look"
    await read(reached, Request(prompt="on", answer_prefix=" and"))
    assert engine.requests[-1].prompt == "on and"
    await read(reached, Request(prompt_token_ids=(1, 2), cache_salt="s"))
    assert engine.requests[-1].prompt_token_ids == (1, 2)
    assert engine.requests[-1].cache_salt == "s"
    with pytest.raises(Unsupported, match="answer_prefix"):
        await read(reached, Request(prompt_token_ids=(1, 2), answer_prefix="and"))


async def test_a_server_that_can_keeps_those_apart_who_ask_through_us() -> None:
    engine = ScriptedEngine()
    async with (
        listening(engine) as server,
        aclosing(Upstream(f"{server.url}/v1", for_tenants=True)) as reached,
    ):
        for who in ("a", "b", "a"):
            with asked_by(who):
                await read(reached)
    salts = [each.cache_salt for each in engine.requests if each.messages == CHAT.messages]
    assert salts[0] == salts[2] != salts[1] and all(len(salt) == 64 for salt in salts)


async def test_a_reader_who_leaves_frees_the_server() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with listening(engine) as server, aclosing(Upstream(f"{server.url}/v1")) as reached:
        stream = reached.generate(CHAT)
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        asked = next(r.id for r in engine.requests if r.messages == CHAT.messages)
        await engine.until(lambda: asked not in engine.running)


async def test_what_may_not_leave_does_not() -> None:
    asked: list[httpx.Request] = []
    engine = upstream(lambda request: asked.append(request) or httpx.Response(500))  # type: ignore[func-returns-value]
    with pytest.raises(RequestError, match="local_only"):
        await read(engine, Request(prompt="secret", privacy=Privacy.LOCAL_ONLY))
    assert not asked


async def test_each_kind_of_server_is_spoken_to_in_its_own_words() -> None:
    bodies = []

    def reply(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, content=sse(piece("a", "stop"), "[DONE]"))

    wish = Request(messages=CHAT.messages, sampling=Sampling(repetition_penalty=1.5))
    await read(upstream(reply, "llamacpp"), wish)
    await read(upstream(reply, "vllm"), Request(messages=CHAT.messages, answer_prefix="so"))
    assert bodies[0]["repeat_penalty"] == 1.5
    assert bodies[1]["continue_final_message"] is True
    assert bodies[1]["messages"][-1] == {"role": "assistant", "content": "so"}


async def test_a_server_that_always_samples_is_left_one_token_to_draw() -> None:
    bodies: list[Any] = []

    def reply(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, content=sse(piece("a"), piece("", "stop"), "[DONE]"))

    engine = upstream(reply, owner="deepspeed-mii")
    await read(engine)
    await read(engine, Request(prompt="a", sampling=Sampling(temperature=0.5, top_k=7)))
    told = [(body["temperature"], body["top_k"]) for body in bodies]
    assert told == [(1.0, 1), (0.5, 7)]


async def test_calls_of_tools_are_said_as_models_write_them() -> None:
    first = [{"index": 0, "id": "x", "function": {"name": "look", "arguments": '{"wh'}}]
    rest = [{"index": 0, "function": {"arguments": 'at": 1}'}}]
    events = (
        piece("I look.", tool_calls=first),
        piece("", "tool_calls", tool_calls=rest),
        "[DONE]",
    )
    text, finish = await read(upstream(says(*events)))
    said, calls = read_whole(text, Toolbox(descriptions=(), names=frozenset({"look"})))
    assert said == "I look." and finish.reason == "stop"
    assert [json.loads(call.arguments) for call in calls] == [{"what": 1}]


async def test_the_first_call_is_said_as_it_comes_and_the_others_behind_it() -> None:
    def part(index: int, arguments: str, name: str | None = None) -> dict[str, Any]:
        function = {"name": name, "arguments": arguments}
        return piece("", tool_calls=[{"index": index, "function": function}])

    events = (
        part(0, "", "look"),
        part(0, '{"what": "'),
        part(1, '{"what"', "look"),
        part(0, 'a"}'),
        part(1, ': "b"}'),
        part(2, "", "look"),
        piece(" Done."),
        piece("", "tool_calls"),
        "[DONE]",
    )
    items = [item async for item in upstream(says(*events)).generate(CHAT)]
    texts = [item.text for item in items if isinstance(item, Delta)]
    assert texts[:2] == ['<tool_call>{"name": "look", "arguments": {"what": "', 'a"}']
    text, calls = read_whole("".join(texts), Toolbox(descriptions=(), names=frozenset({"look"})))
    assert text == " Done."
    assert [json.loads(call.arguments) for call in calls] == [{"what": "a"}, {"what": "b"}, {}]


def call_piece(arguments: str | None, **more: Any) -> dict[str, Any]:
    name = more.pop("name", None)
    return piece("", tool_calls=[{"function": {"name": name, "arguments": arguments}, **more}])


@pytest.mark.parametrize(
    "events",
    [
        [  # every call has the index 0, and an id of its own
            call_piece('{"a": 1}', index=0, id="x", name="look"),
            call_piece('{"a": 2}', index=0, id="y", name="look"),
        ],
        [  # in pieces, the ids again with each
            call_piece('{"a"', index=0, id="x", name="look"),
            call_piece('{"a": ', index=0, id="y", name="look"),
            call_piece(": 1}", index=0, id="x"),
            call_piece("2}", index=0, id="y"),
        ],
        [  # in pieces, the id with the first
            call_piece('{"a"', index=0, id="x", name="look"),
            call_piece(": 1}", index=0),
            call_piece('{"a": ', index=0, id="y", name="look"),
            call_piece("2}", index=0, id=None),
        ],
        [  # no index and no ids
            call_piece('{"a"', index=None, name="look"),
            call_piece(": 1}", index=None),
            call_piece('{"a": 2}', name="look"),
        ],
        [  # whole, with the index 0 and empty ids
            call_piece('{"a": 1}', index=0, id="", name="look"),
            call_piece('{"a": 2}', index=0, id="", name="look"),
        ],
    ],
)
async def test_parallel_calls_are_told_apart_whatever_their_index(events: list[Any]) -> None:
    text, _ = await read(upstream(says(*events, piece("", "tool_calls"), "[DONE]")))
    said, calls = read_whole(text, Toolbox(descriptions=(), names=frozenset({"look"})))
    assert said == "" and [json.loads(call.arguments) for call in calls] == [{"a": 1}, {"a": 2}]


async def test_nulls_in_the_place_of_what_is_not_there_end_no_answer() -> None:
    nothing = {"choices": None, "usage": None, "error": None}
    usage = {"prompt_tokens": None, "completion_tokens": 3, "prompt_tokens_details": None}
    events = (
        nothing,
        piece("on"),
        {"choices": [{"index": None, "delta": None, "finish_reason": None}]},
        {"choices": [{"index": None, "delta": {"content": None, "tool_calls": None}}]},
        call_piece(None, index=None, id=None),
        piece("e", "stop"),
        {"choices": [], "usage": usage},
        "[DONE]",
    )
    text, finish = await read(upstream(says(*events[:4], *events[5:])))
    assert text == "one" and finish.usage.completion_tokens == 3


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_separators_of_other_kinds_do_not_end_an_event(size: int, end: str) -> None:
    said = "a\u2028b\u2029c\x85d\x0ce\x1cf"
    event = json.dumps(piece(said, "stop"), ensure_ascii=False)
    content = f"\ufeffdata: {event}{end}{end}data:{end}{end}: word{end}{end}data: [DONE]{end}{end}"
    raw = content.encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(raw), size):
            yield raw[at : at + size]

    text, finish = await read(upstream(lambda _: httpx.Response(200, content=pieces())))
    assert (text, finish.reason) == (said, "stop")


async def test_llama_cpps_own_server_is_an_engine() -> None:
    pytest.importorskip("llama_cpp.server.app", reason="the server's packages are not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.offload.llama_server", "--model", str(EDGE_MODEL)]
    command += ["--port", str(port), "--n_threads", "1", "--n_ctx", "512"]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with aclosing(Upstream(f"http://127.0.0.1:{port}/v1")) as engine:
            await wait_for(engine, server)
            question = (Message(role="user", content="What is the capital of France?"),)
            text, finish = await read(
                engine, Request(messages=question, sampling=Sampling(max_tokens=16))
            )
            assert engine.card().runtime == "llama-cpp-python"
            assert "Paris" in text and finish.reason == "stop"
            with pytest.raises(CloudFailed):  # it cuts such a stream off instead of refusing it
                await read(engine, Request(prompt="word " * 900))
    finally:
        server.terminate()
        server.wait(60)


async def wait_for(engine: Upstream, server: subprocess.Popen[bytes]) -> None:
    async def is_up() -> bool:
        assert server.poll() is None, "the server ended while it started"
        with contextlib.suppress(CloudUnreachable):
            await engine.connect()
            return True
        return False

    await until_read(is_up, bool, patience_s=120)


async def test_a_server_draws_in_its_own_way_where_nothing_is_asked() -> None:
    bodies: list[Any] = []

    def reply(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, content=sse(piece("a", "stop"), "[DONE]"))

    engine = upstream(reply, owner="deepspeed-mii")
    for sampling in (Sampling(own=True), Sampling(own=True, top_p=0.5)):
        await read(engine, Request(messages=CHAT.messages, sampling=sampling))
    assert [(body.get("temperature"), body.get("top_p")) for body in bodies] == [
        (None, None),
        (None, 0.5),
    ]
    held = Sampling(own=True, json_schema={"type": "object"})
    await read(upstream(reply), Request(messages=CHAT.messages, sampling=held))
    assert bodies[-1]["temperature"] == 0.0
