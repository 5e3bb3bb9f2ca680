"""What a request that does not stream is answered, and with which status it is refused."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest

from backbone.errors import CheckpointError, NearfarError, TemplateRefusal
from offload.errors import (
    CloudFailed,
    CloudUnreachable,
    ContextLengthError,
    EngineStopped,
    KeyRefused,
    Overloaded,
    Unsupported,
)
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Confidence, Delta, Finish, ModelCard, Privacy, Route, Usage
from serve.app import build_app
from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, CONTINUE, TEXT, error_of, near
from tests.waiting import until_read

FAR = Finish(
    reason="length",
    usage=Usage(prompt_tokens=5, completion_tokens=3),
    route=Route(served_by="cloud", reason="unsure", confidence=0.25),
)


async def test_a_chat_is_answered_as_openai_answers() -> None:
    async with near(ScriptedEngine(finish=FAR)) as client:
        response = await client.post(CHAT, json=ASK)
    body = response.json()
    assert response.status_code == 200
    assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-")
    message = {"role": "assistant", "content": "one two three", "refusal": None}
    assert body["choices"] == [
        {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    ]
    assert body["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
        "route": {"served_by": "cloud", "reason": "unsure", "confidence": 0.25},
    }
    assert response.headers["x-nearfar-served-by"] == "cloud"
    assert response.headers["x-nearfar-reason"] == "unsure"


async def test_what_a_sliding_window_left_unread_is_told() -> None:
    async with near(ScriptedEngine(finish=Finish(reason="stop", dropped_tokens=7))) as client:
        response = await client.post(CHAT, json=ASK)
    assert response.json()["usage"]["dropped_tokens"] == 7
    assert response.headers["x-nearfar-dropped-tokens"] == "7"


async def test_a_raw_completion_may_echo_its_prompt() -> None:
    async with near(ScriptedEngine()) as client:
        plain = (await client.post(TEXT, json=CONTINUE)).json()
        echoed = (await client.post(TEXT, json=CONTINUE | {"echo": True})).json()
    assert plain["object"] == "text_completion"
    assert plain["choices"][0]["text"] == "one two three"
    assert echoed["choices"][0]["text"] == "zeroone two three"


async def test_an_answer_can_be_sent_back_as_part_of_the_conversation() -> None:
    async with near(ScriptedEngine()) as client:
        said = (await client.post(CHAT, json=ASK)).json()["choices"][0]["message"]
        turns = [*ASK["messages"], said, {"role": "user", "content": "more"}]
        response = await client.post(CHAT, json=ASK | {"messages": turns})
    assert response.status_code == 200


async def test_choices_differ_by_seed_and_a_prompt_counts_once() -> None:
    usage = Usage(prompt_tokens=5, completion_tokens=2)
    engine = ScriptedEngine(
        script=lambda request: [str(request.sampling.seed)],
        finish=Finish(reason="stop", usage=usage),
    )
    wish = {"prompt": ["a", "b"], "n": 2, "seed": 3}
    async with near(engine) as client:
        body = (await client.post(TEXT, json=CONTINUE | wish)).json()
    assert [(each["index"], each["text"]) for each in body["choices"]] == [
        (0, "3"),
        (1, "4"),
        (2, "3"),
        (3, "4"),
    ]
    assert body["usage"]["prompt_tokens"] == 10 and body["usage"]["completion_tokens"] == 8
    assert len({each.id for each in engine.requests}) == 4


async def test_logprobs_are_those_of_the_chosen_tokens() -> None:
    async with near(ScriptedEngine()) as client:
        chat = (await client.post(CHAT, json=ASK | {"logprobs": True})).json()
        text = (await client.post(TEXT, json=CONTINUE | {"logprobs": 0})).json()
    tokens = chat["choices"][0]["logprobs"]["content"]
    assert [each["token"] for each in tokens] == ["one", " two", " three"]
    assert [each["logprob"] for each in tokens] == [-0.5, -0.5, -0.5]
    assert tokens[1]["bytes"] == list(b" two") and tokens[1]["token_id"] == 1001
    assert text["choices"][0]["logprobs"] == {
        "tokens": ["one", " two", " three"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "text_offset": [0, 3, 7],
        "top_logprobs": None,
    }


async def test_a_logprob_that_json_cannot_hold_is_very_unlikely() -> None:
    sure = (Confidence(float("-inf"), 0.0, 0.0), Confidence(float("nan"), 0.0, 0.0))
    engine = ScriptedEngine([Delta(text="x", token_ids=(1, 2), confidence=sure)])
    async with near(engine) as client:
        body = (await client.post(CHAT, json=ASK | {"logprobs": True})).json()
    tokens = body["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["logprob"]) for each in tokens] == [("", -9999.0), ("x", -9999.0)]


async def test_withdrawn_text_is_in_no_answer() -> None:
    engine = ScriptedEngine(["wrong", Delta(text="right", replaces=True), " indeed"])
    async with near(engine) as client:
        body = (await client.post(CHAT, json=ASK)).json()
    assert body["choices"][0]["message"]["content"] == "right indeed"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextLengthError(9, 8), 400, "context_length_exceeded"),
        (CloudUnreachable("nothing answers; start it"), 503, "cloud_failed"),
        (CloudFailed("it broke; ask again"), 502, "cloud_failed"),
        (KeyRefused("unknown key; allow it"), 502, "cloud_failed"),
        (Overloaded("too much to do; ask later"), 503, "overloaded"),
        (EngineStopped("it is closed; start it"), 503, "engine_stopped"),
        (Unsupported("no json_schema here; leave it out"), 400, None),
        (TemplateRefusal("two turns of one role; change them"), 400, None),
        (NearfarError("no; do this"), 500, None),
    ],
)
async def test_each_failure_has_its_status(
    error: Exception, status: int, code: str | None, stream: bool
) -> None:
    async with near(ScriptedEngine(error=error)) as client:
        response = await client.post(CHAT, json=ASK | {"stream": stream})
    assert response.status_code == status
    told = error_of(response)
    assert (told["code"], told["message"]) == (code, str(error))


async def test_who_is_told_to_come_later_is_told_when() -> None:
    async with near(ScriptedEngine(error=Overloaded("full; ask later", 2.2))) as client:
        response = await client.post(CHAT, json=ASK)
    assert response.headers["retry-after"] == "3"


async def test_a_foreign_error_tells_nothing_of_the_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the-secret-prompt"
    asked = ASK | {"messages": [{"role": "user", "content": secret}]}
    async with near(ScriptedEngine(error=ValueError(secret))) as client:
        response = await client.post(CHAT, json=asked)
    assert response.status_code == 500
    assert "ValueError" in error_of(response)["message"]
    assert secret not in response.text and secret not in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize(
    ("finish", "status"),
    [
        (Finish(reason="error", error="the disk is full; free some"), 500),
        (Finish(reason="cancelled"), 500),
        (Finish(reason="deadline"), 504),
        (None, 500),
    ],
)
async def test_an_answer_that_failed_is_an_error(finish: Finish | None, status: int) -> None:
    async with near(ScriptedEngine(finish=finish)) as client:
        response = await client.post(CHAT, json=ASK)
    assert response.status_code == status and error_of(response)["type"] == "server_error"


async def test_the_names_are_the_models_and_the_policys() -> None:
    async with near(ScriptedEngine()) as client:
        alone = (await client.get("/v1/models")).json()
        unknown = await client.post(CHAT, json=ASK | {"model": "gpt-4"})
        local = await client.post(CHAT, json=ASK | {"model": "auto-local"})
        one = await client.get("/v1/models/scripted")
        none = await client.get("/v1/models/a/b")
    assert [each["id"] for each in alone["data"]] == ["scripted", "auto"]
    assert unknown.status_code == local.status_code == none.status_code == 404
    assert error_of(unknown)["code"] == error_of(none)["code"] == "model_not_found"
    assert one.json()["max_model_len"] == 4096


async def test_auto_local_keeps_the_text_on_the_device() -> None:
    edge, cloud = ScriptedEngine(["near"]), ScriptedEngine(["far"])
    hybrid = Hybrid(edge, cloud, options=HybridOptions(forced="cloud"))
    async with near(hybrid) as client:
        far = await client.post(CHAT, json=ASK | {"model": "auto"})
        local = await client.post(CHAT, json=ASK | {"model": "auto-local"})
    assert far.json()["choices"][0]["message"]["content"] == "far"
    assert local.json()["choices"][0]["message"]["content"] == "near"
    assert local.headers["x-nearfar-reason"] == "local_only"
    assert [each.privacy for each in edge.requests] == [Privacy.LOCAL_ONLY]


async def test_the_privacy_of_the_settings_holds_for_requests_without_their_own() -> None:
    edge, cloud = ScriptedEngine(["near"]), ScriptedEngine(["far"])
    hybrid = Hybrid(edge, cloud, options=HybridOptions(forced="cloud"))
    async with near(hybrid, ServeOptions(privacy=Privacy.LOCAL_ONLY)) as client:
        await client.post(CHAT, json=ASK)
    assert not cloud.requests


async def test_an_unknown_path_and_method_are_told_in_the_same_form() -> None:
    async with near(ScriptedEngine()) as client:
        path, method = await client.get("/v2/chat"), await client.get(CHAT)
    assert (path.status_code, method.status_code) == (404, 405)
    assert error_of(path) and error_of(method)


async def test_ready_is_said_after_the_first_answer_and_asks_no_cloud() -> None:
    edge, cloud = ScriptedEngine(["near"]), ScriptedEngine(["far"])
    engine = Hybrid(edge, cloud, options=HybridOptions(forced="cloud"))
    app = build_app(engine)
    async with near(engine) as client:
        before = await client.get("/ready")
    base = "http://127.0.0.1"
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=base) as client,
    ):
        await edge.until(lambda: bool(edge.num_said) and not edge.running)
        after, health = await client.get("/ready"), await client.get("/health")
    assert (before.status_code, after.status_code, health.status_code) == (503, 200, 200)
    assert not cloud.requests


async def test_an_engine_whose_every_chat_fails_is_not_ready() -> None:
    class Chatting(ScriptedEngine):
        def card(self) -> ModelCard:
            return msgspec.structs.replace(super().card(), chat=True)

    engine = Chatting(error=CheckpointError("the template is broken; use another model"))
    app = build_app(engine)
    base, transport = "http://127.0.0.1", httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=base) as client,
    ):
        ready = await until_read(
            partial(client.get, "/ready"), lambda reply: "template is broken" in reply.text
        )
    assert ready.status_code == 503
    assert engine.requests[0].messages and engine.requests[0].prompt is None


async def test_the_openapi_document_draws_every_path() -> None:
    app = build_app(ScriptedEngine())
    async with near(ScriptedEngine()) as client:
        document = (await client.get("/openapi.json")).json()
    paths = {getattr(route, "path", "").replace(":path", "") for route in app.routes}
    assert set(document["paths"]) == paths
    drawn = json.dumps(document)
    for part in drawn.split('"#/components/schemas/')[1:]:
        assert part.split('"')[0] in document["components"]["schemas"]


async def test_a_request_keeps_its_id_and_gets_one_without() -> None:
    async with near(ScriptedEngine()) as client:
        own = await client.get("/health", headers={"x-request-id": "mine-1"})
        odd = await client.get("/health", headers={"x-request-id": "a b"})
    assert own.headers["x-request-id"] == "mine-1"
    assert len(odd.headers["x-request-id"]) == 32


def test_the_guide_names_every_path_and_option() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    routes = [getattr(route, "path", "") for route in build_app(ScriptedEngine()).routes]
    named = [path.replace("{model:path}", "NAME") for path in routes]
    for word in [*named, "api_keys", "allowed_hosts", "tls_cert", "tls_key", "request_timeout_s"]:
        assert word in guide, word
