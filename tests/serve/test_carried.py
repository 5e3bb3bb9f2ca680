"""A nearfar behind HTTP in a chain: what its header carries, and what the usage tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import httpx
import pytest

from offload.carried import HEADER, header_of
from offload.chain import Waypoint
from offload.engine import Engine
from offload.errors import CloudFailed
from offload.hybrid.hybrid import Hybrid
from offload.messages import Budget, Hop, Privacy, Request
from offload.upstream.client import Upstream
from serve.app import build_app
from serve.options import ServeOptions
from tests.offload.hybrid.pairs import UNSURE, ask, read
from tests.offload.hybrid.test_chain import Model, hybrid
from tests.offload.upstreams import piece, says, upstream
from tests.serve.faces import ASK, CHAT, asked_chats, near


@asynccontextmanager
async def over_http(engine: Engine, **options: bool) -> AsyncIterator[Upstream]:
    app = build_app(engine, options=ServeOptions(warm_up=False))
    transport = httpx.ASGITransport(app=app)
    made = Upstream("http://127.0.0.1:8080/v1", transport=transport, **options)
    async with aclosing(made):
        yield made


@pytest.mark.parametrize("privacy", [Privacy.CLOUD_OK, Privacy.ASK])
async def test_a_chain_over_http_carries_and_tells_as_over_the_link(privacy: Privacy) -> None:
    async def agree(_: Request) -> bool:
        return True

    gpu, middle = Model("gpu"), Model("desktop", UNSURE)
    desktop: Hybrid = hybrid(middle, gpu)
    async with over_http(desktop) as to_desktop:
        laptop = hybrid(Model("laptop", UNSURE), to_desktop, agree)
        budget = Budget(max_cost=1.0)
        text, finish = await read(laptop, ask(privacy=privacy, deadline_s=60.0, budget=budget))
    stays = privacy is Privacy.ASK
    hop = Hop(
        served_by="edge" if stays else "cloud",
        reason="not_allowed" if stays else "unsure",
        model="desktop" if stays else "gpu",
    )
    assert text == f"{hop.model} " and finish.route is not None
    assert finish.route.onward == (hop,) and finish.route.model == hop.model
    asked = middle.requests[0]
    assert asked.privacy is privacy and asked.budget == budget and len(asked.via) == 1
    assert asked.deadline_s is not None and asked.deadline_s < 60.0
    assert bool(gpu.requests) is not stays


async def test_a_question_that_comes_back_over_http_is_a_loop() -> None:
    desktop = hybrid(Model("desktop", UNSURE), Model("gpu"))
    assert desktop.cloud is not None
    been_here = desktop.cloud.waypoint.onward(ask())
    async with near(desktop) as client:
        reply = await client.post(
            CHAT, json=ASK | {"model": "auto"}, headers={HEADER: header_of(been_here)}
        )
    assert reply.status_code == 508 and reply.json()["error"]["code"] == "loop"


async def test_a_server_in_front_of_a_server_is_a_place_too() -> None:
    engine = Model("gpu")
    async with over_http(engine, for_tenants=True) as front:
        asked = Waypoint().onward(ask())
        assert [item async for item in front.generate(asked)]
        passed = asked_chats(engine)[0].via
        assert passed[0] == asked.via[0] and len(passed) == 2
        with pytest.raises(CloudFailed, match="in a circle"):
            await anext(front.generate(ask(via=passed)))


@pytest.mark.parametrize("said", ["{", '{"privacy": "none"}', '{"deadline_s": -1}', "[]", "\xff"])
async def test_a_header_that_makes_no_sense_is_refused(said: str) -> None:
    engine = Model("m")
    async with near(engine) as client:
        headers = {HEADER: said.encode("latin-1")}
        reply = await client.post(CHAT, json=ASK | {"model": "m"}, headers=headers)
    assert reply.status_code == 400 and HEADER in reply.json()["error"]["message"]
    assert asked_chats(engine) == []


async def test_no_header_goes_to_a_server_that_is_no_nearfar() -> None:
    seen: list[httpx.Request] = []

    def reply(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return says(piece("a", "stop"), "[DONE]")(request)

    engine = upstream(reply)
    assert [item async for item in engine.generate(ask())]
    assert len(seen) == 1 and HEADER not in seen[0].headers


@pytest.mark.parametrize(
    "route",
    [7, "near", {"served_by": "moon", "reason": "x"}, {"served_by": "edge", "reason": "no code"}],
)
async def test_a_route_that_cannot_be_is_left_out_and_the_answer_stands(route: object) -> None:
    usage = {"choices": [], "usage": {"completion_tokens": 1, "route": route}}
    engine = upstream(says(piece("a", "stop"), usage, "[DONE]"), owner="nearfar")
    *_, finish = [item async for item in engine.generate(ask())]
    shown = getattr(finish, "route", None)
    assert shown is None or (shown.reason, shown.onward) == ("cloud_only", ())
