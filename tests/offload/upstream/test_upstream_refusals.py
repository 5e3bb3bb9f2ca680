"""What a server refuses or leaves unsaid is told in one line; half an answer is none."""

from __future__ import annotations

import socket
from contextlib import aclosing
from typing import Any

import httpx
import pytest

from offload.errors import (
    CloudBusy,
    CloudFailed,
    CloudUnreachable,
    ContextLengthError,
    KeyRefused,
    LinkError,
    RequestError,
    SettingsError,
    Unsupported,
)
from offload.messages import (
    Request,
    Sampling,
)
from offload.upstream.client import Upstream, key_for
from tests.offload.upstreams import CHAT, URL, piece, read, says, sse, upstream


@pytest.mark.parametrize(
    ("owner", "request_", "word"),
    [
        ("vllm", Request(prompt="a", sampling=Sampling(logprobs=2)), "logprobs"),
        ("vllm", Request(prompt="a", sampling=Sampling(prompt_logprobs=True)), "logprobs"),
        ("somebody", Request(prompt="a", sampling=Sampling(top_k=2)), "top_k"),
        ("somebody", Request(prompt="a", sampling=Sampling(min_p=0.1)), "min_p"),
        ("llamacpp", Request(messages=CHAT.messages, answer_prefix="so"), "answer_prefix"),
        ("llamacpp", Request(prompt="a", cache_salt="s"), "cache_salt"),
        ("deepspeed-mii", Request(prompt="a", sampling=Sampling(json_schema={})), "json_schema"),
        ("deepspeed-mii", Request(prompt="a", sampling=Sampling(stop=("a", "b"))), "more stops"),
        (
            "deepspeed-mii",
            Request(prompt="a", sampling=Sampling(logit_bias={1: 1.0})),
            "logit_bias",
        ),
        ("deepspeed-mii", Request(prompt_token_ids=(1,)), "token ids"),
        (
            "deepspeed-mii",
            Request(prompt="a", sampling=Sampling(seed=1, temperature=1.0)),
            "seed",
        ),
    ],
)
async def test_what_such_a_server_cannot_do_is_said(
    owner: str, request_: Request, word: str
) -> None:
    with pytest.raises(Unsupported, match=word):
        await read(upstream(says(), owner), request_)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": {"message": "bad seed", "code": 400}}, RequestError),
        (400, {"message": "maximum context length is 8"}, ContextLengthError),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, ContextLengthError),
        (401, {"error": "no"}, KeyRefused),
        (404, {}, CloudFailed),
        (429, {}, CloudBusy),
        (500, "<html>", CloudFailed),
        (503, {}, CloudUnreachable),
    ],
)
async def test_each_refusal_has_its_error(status: int, body: Any, kind: type[Exception]) -> None:
    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=body, headers={"retry-after": "7"})

    with pytest.raises(kind) as refused:
        await read(upstream(reply))
    assert type(refused.value) is kind
    if isinstance(refused.value, CloudBusy):
        assert refused.value.retry_after_s == 7
    if isinstance(refused.value, LinkError):
        assert refused.value.bytes_sent is None  # it has the text, and nobody counted its bytes


async def test_a_server_that_comes_up_late_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("offload.upstream.client._FIRST_PAUSE_S", 0.001)
    statuses = [503, 503, 200]

    def reply(request: httpx.Request) -> httpx.Response:
        return httpx.Response(statuses.pop(0), content=sse(piece("late", "stop"), "[DONE]"))

    assert (await read(upstream(reply)))[0] == "late" and not statuses


@pytest.mark.parametrize(
    "events",
    [
        (piece("half"),),
        (piece("half"), "[DONE]"),
        (piece("half"), {"error": {"message": "out of memory"}}),
        (piece("half"), "{no json"),
        (piece("half", "content_filter"), "[DONE]"),
    ],
)
async def test_half_an_answer_is_never_taken_for_a_whole_one(events: tuple[Any, ...]) -> None:
    with pytest.raises(CloudFailed):
        await read(upstream(says(*events)))


async def test_nobody_there_is_one_line_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with aclosing(Upstream(f"http://127.0.0.1:{port}/v1")) as engine:
        with pytest.raises(CloudUnreachable, match="start the server"):
            await read(engine)
        with pytest.raises(LinkError):
            engine.card()


@pytest.mark.parametrize("body", [{"data": []}, {"models": 1}, "<html>"])
async def test_what_is_no_list_of_models_is_told(body: Any) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=body))
    with pytest.raises(CloudFailed):
        await Upstream(URL, transport=transport).connect()


async def test_a_model_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(CloudFailed, match="it has m"):
        await upstream(says(), model="other").connect()


@pytest.mark.parametrize("url", ["ftp://a/v1", "http:///v1", "a", "http://user:secret@a/v1"])
def test_a_wrong_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        Upstream(url)


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert key_for("api.openai.com", "") == "sk-secret"
    assert key_for("localhost", "") == key_for("api.openai.com.evil.example", "") == ""
    assert key_for("localhost", "mine") == "mine"
