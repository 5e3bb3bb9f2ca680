"""What a stream says, event by event, and that no reader ever sees text that was withdrawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from offload.errors import CloudFailed
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.hybrid.settled import settled
from offload.messages import Confidence, Delta, Finish, Request, Route, Usage
from tests.offload.scripted import ScriptedEngine, delta
from tests.serve.faces import ASK, CHAT, CONTINUE, TEXT, error_of, events, listening, near

REQUEST = Request(prompt="x")
STREAM = ASK | {"stream": True}
UNSURE = Delta(text="guess", token_ids=(1,), confidence=(Confidence(-3.0, 1.0, 0.1),))
SURE = Delta(text="sure", token_ids=(1,), confidence=(Confidence(-0.01, 0.1, 5.0),))


def said(told: list[Any]) -> str:
    chunks = [event for event in told if "choices" in event]
    return "".join(c["delta"].get("content", "") for e in chunks for c in e["choices"])


async def test_a_stream_is_role_then_text_then_reason_then_done() -> None:
    async with near(ScriptedEngine(["one", "", " two"])) as client:
        response = await client.post(CHAT, json=STREAM)
    told = events(response.text)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [e["choices"][0]["delta"] for e in told[:-1]] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "one"},
        {"content": " two"},
        {},
    ]
    assert [e["choices"][0]["finish_reason"] for e in told[:-1]] == [None, None, None, "stop"]
    assert told[-1] == "[DONE]"
    assert len({e["id"] for e in told[:-1]}) == 1
    assert all(e["object"] == "chat.completion.chunk" and "usage" not in e for e in told[:-1])


async def test_usage_comes_last_and_every_other_chunk_says_it_has_none() -> None:
    finish = Finish(
        reason="stop",
        usage=Usage(prompt_tokens=4, completion_tokens=3),
        route=Route(served_by="edge", reason="confident"),
    )
    wish = STREAM | {"stream_options": {"include_usage": True}}
    async with near(ScriptedEngine(finish=finish)) as client:
        *chunks, tally, done = events((await client.post(CHAT, json=wish)).text)
    assert done == "[DONE]" and all(chunk["usage"] is None for chunk in chunks)
    assert tally["choices"] == [] and tally["usage"]["total_tokens"] == 7
    assert tally["usage"]["route"] == {"served_by": "edge", "reason": "confident"}


async def test_a_raw_completion_streams_its_echo_first() -> None:
    wish = CONTINUE | {"stream": True, "echo": True}
    async with near(ScriptedEngine()) as client:
        told = events((await client.post(TEXT, json=wish)).text)
    texts = [e["choices"][0]["text"] for e in told[:-1]]
    assert texts == ["zero", "one", " two", " three", ""]
    assert all(e["object"] == "text_completion" for e in told[:-1])


async def test_offsets_of_a_streamed_completion_count_what_went_before() -> None:
    wish = CONTINUE | {"stream": True, "logprobs": 0}
    async with near(ScriptedEngine()) as client:
        told = events((await client.post(TEXT, json=wish)).text)
    offsets = [e["choices"][0]["logprobs"]["text_offset"] for e in told[:-2]]
    assert offsets == [[0], [3], [7]]


async def test_each_of_several_choices_is_whole_and_has_its_own_role() -> None:
    engine = ScriptedEngine(script=lambda request: [str(request.sampling.seed), "!"])
    async with near(engine) as client:
        told = events((await client.post(CHAT, json=STREAM | {"n": 3, "seed": 5})).text)
    for index, text in enumerate(["5!", "6!", "7!"]):
        own = [c for e in told[:-1] for c in e["choices"] if c["index"] == index]
        assert own[0]["delta"]["role"] == "assistant" and own[-1]["finish_reason"] == "stop"
        assert "".join(c["delta"].get("content", "") for c in own) == text


async def test_what_fails_in_mid_stream_is_an_event_and_no_done() -> None:
    engine = ScriptedEngine(error=ValueError("secret"), error_before=2)
    async with near(engine) as client:
        response = await client.post(CHAT, json=STREAM)
    told = events(response.text)
    assert response.status_code == 200 and told[-1]["error"]["type"] == "server_error"
    assert "secret" not in response.text and "[DONE]" not in response.text


async def test_a_stream_says_in_its_headers_who_writes_it() -> None:
    engine = ScriptedEngine([Delta(text="far", source="cloud")])
    async with near(engine) as client:
        response = await client.post(CHAT, json=STREAM)
    assert response.headers["x-nearfar-served-by"] == "cloud"


async def test_an_unsure_near_answer_is_never_seen_when_the_far_one_replaces_it() -> None:
    hybrid = Hybrid(ScriptedEngine([UNSURE, " more"]), ScriptedEngine(["the", " truth"]))
    async with near(hybrid) as client:
        response = await client.post(CHAT, json=STREAM | {"model": "auto"})
    assert said(events(response.text)) == "the truth"
    assert response.headers["x-nearfar-served-by"] == "cloud"


async def test_a_near_answer_comes_whole_when_nothing_replaces_it() -> None:
    hybrid = Hybrid(ScriptedEngine([SURE, SURE]), ScriptedEngine(["the", " truth"]))
    async with near(hybrid) as client:
        response = await client.post(CHAT, json=STREAM | {"model": "auto"})
    assert said(events(response.text)) == "suresure"
    assert response.headers["x-nearfar-served-by"] == "edge"


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["the"], "sure"),  # no whole word of it was passed on
        (["the "], "the sure"),
        (["the", " tr"], "the sure"),
        (["the", " tru", "th", " is "], "the truth is sure"),
        (["真", "相是"], "真相是sure"),
    ],
)
async def test_a_far_answer_that_breaks_off_goes_on_near_behind_a_whole_word(
    pieces: list[str], shown: str
) -> None:
    far = ScriptedEngine(pieces, error=CloudFailed("gone; again"), error_before=len(pieces))
    hybrid = Hybrid(ScriptedEngine([SURE]), far, options=HybridOptions(forced="cloud"))
    wish = STREAM | {"stream_options": {"include_usage": True}}
    async with near(hybrid) as client:
        told = events((await client.post(CHAT, json=wish)).text)
    assert said(told) == shown and told[-1] == "[DONE]"
    route = told[-2]["usage"]["route"]
    assert route["served_by"] == "edge" and "gone" in route["failure"]


@pytest.mark.parametrize(
    ("pieces", "rescue"), [(["the "], "replace"), (["the ", "long" * 40], "continue")]
)
async def test_a_far_answer_that_cannot_go_on_is_an_error_and_no_mixture(
    pieces: list[str], rescue: Any
) -> None:
    far = ScriptedEngine(pieces, error=CloudFailed("gone; again"), error_before=len(pieces))
    options = HybridOptions(forced="cloud", rescue=rescue)
    async with near(Hybrid(ScriptedEngine([SURE]), far, options=options)) as client:
        told = events((await client.post(CHAT, json=STREAM)).text)
    assert "sure" not in said(told) and told[-1]["error"]["code"] == "cloud_failed"


async def test_text_that_cannot_be_withdrawn_is_streamed_at_once() -> None:
    hold = asyncio.Event()
    hybrid = Hybrid(ScriptedEngine(hold=hold), ScriptedEngine(["far"]))
    async with listening(hybrid) as server, lines_of(server.url, "auto-local") as lines:
        async for line in lines:
            if "one" in line:
                break
        assert not hold.is_set()
        hold.set()


@asynccontextmanager
async def lines_of(url: str, model: str) -> AsyncIterator[AsyncIterator[str]]:
    """The lines of a stream, as they come."""
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", url + CHAT, json=STREAM | {"model": model}) as response,
    ):
        yield response.aiter_lines()


@pytest.mark.parametrize(
    ("items", "shown"),
    [
        ([delta("a"), delta("b")], "ab"),
        ([delta("a"), Delta(text="c", source="cloud", replaces=True)], "c"),
        ([delta("a"), Delta(text="c", replaces=True), delta("d")], "cd"),
        ([Delta(text="", source="cloud"), Delta(text="c", replaces=True)], "c"),
    ],
)
async def test_settled_text_is_the_last_version_alone(items: list[Delta], shown: str) -> None:
    engine = ScriptedEngine(items)
    async with aclosing(settled(engine.generate(REQUEST), may_replace=True)) as stream:
        told = [item async for item in stream]
    assert "".join(item.text for item in told if isinstance(item, Delta)) == shown
    assert isinstance(told[-1], Finish)
    assert not any(item.replaces for item in told if isinstance(item, Delta))


async def test_a_near_answer_that_cuts_its_own_end_stands_as_it_was_passed_on() -> None:
    engine = ScriptedEngine(["so ", "and so ", Delta(text="so ", source="edge", replaces=True)])
    async with aclosing(settled(engine.generate(REQUEST), may_replace=False)) as stream:
        told = [item.text async for item in stream if isinstance(item, Delta)]
    assert told == ["so ", "and so "]


async def test_an_engine_that_withdraws_without_warning_is_stopped() -> None:
    engine = ScriptedEngine(["a", Delta(text="b", replaces=True)])
    with pytest.raises(CloudFailed):
        async with aclosing(settled(engine.generate(REQUEST), may_replace=False)) as stream:
            async for _ in stream:
                pass
    assert not engine.running


async def test_a_stream_that_fails_before_its_text_has_an_http_status() -> None:
    async with near(ScriptedEngine(error=CloudFailed("gone; again"))) as client:
        response = await client.post(CHAT, json=STREAM)
    assert response.status_code == 502 and error_of(response)
