"""A question with a picture: asked of whoever sees, under the gate and the consent of any text."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from offload.errors import Unsupported
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Message, Picture, Privacy, Request
from offload.pictures import picture_of
from offload.upstream.client import Upstream
from tests.offload.hybrid.pairs import SURE, near, read
from tests.offload.scripted import ScriptedEngine
from tests.offload.test_pictures import SECRET, exif, jpeg, png, segment
from tests.offload.upstreams import piece, sse

PLAIN = picture_of(png())


class Seer(ScriptedEngine):
    """An engine whose model sees."""

    async def sees(self) -> bool:
        return True


def asked(*pictures: Picture, text: str = "what is it?", **options: Any) -> Request:
    shown = Message(role="user", content=text, pictures=pictures or (PLAIN,))
    return Request(messages=(shown,), **options)


async def yes(_: Request) -> bool:
    return True


async def no(_: Request) -> bool:
    return False


async def test_a_far_model_that_sees_is_asked_however_sure_the_near_one_would_be() -> None:
    edge, cloud = near(("near", SURE)), Seer(("a cat",))
    text, finish = await read(Hybrid(edge, cloud), asked())
    assert text == "a cat" and finish.route is not None
    assert (finish.route.served_by, finish.route.reason) == ("cloud", "pictures")
    assert cloud.requests[0].messages[0].pictures == (PLAIN,) and edge.requests == []


@pytest.mark.parametrize(
    ("cloud", "options", "privacy"),
    [
        (None, HybridOptions(), Privacy.CLOUD_OK),
        (Seer(), HybridOptions(offline=True), Privacy.CLOUD_OK),
        (Seer(), HybridOptions(forced="edge"), Privacy.CLOUD_OK),
        (Seer(), HybridOptions(), Privacy.LOCAL_ONLY),
        (ScriptedEngine(), HybridOptions(), Privacy.CLOUD_OK),
    ],
)
async def test_where_nobody_may_look_one_sentence_says_so(
    cloud: ScriptedEngine | None, options: HybridOptions, privacy: Privacy
) -> None:
    edge = near(("near", SURE))
    hybrid = Hybrid(edge, cloud, options=options)
    with pytest.raises(Unsupported, match=r"sees (no )?pictures") as told:
        await read(hybrid, asked(privacy=privacy))
    assert "\n" not in str(told.value)
    assert edge.requests == [] and (cloud is None or cloud.requests == [])


async def test_consent_is_asked_and_who_refuses_is_answered_by_a_model_that_knows_it_is_blind() -> (
    None
):
    edge, cloud = near(("near", SURE)), Seer(("a cat",))
    text, _ = await read(Hybrid(edge, cloud, consent=yes), asked(privacy=Privacy.ASK))
    assert text == "a cat"
    text, _ = await read(Hybrid(edge, cloud, consent=no), asked(privacy=Privacy.ASK))
    assert text == "near" and len(cloud.requests) == 1
    (told,) = edge.requests[0].messages
    assert told.pictures == () and "cannot see" in told.content


async def test_earlier_pictures_do_not_decide_and_the_near_model_is_told_of_them() -> None:
    edge, cloud = near(("near", SURE)), Seer(("far",))
    turns = (
        *asked().messages,
        Message(role="assistant", content="a cat"),
        Message(role="user", content="thanks"),
    )
    await read(Hybrid(edge, cloud, options=HybridOptions(forced="edge")), Request(messages=turns))
    assert all(not each.pictures for each in edge.requests[0].messages)
    assert "cannot see" in edge.requests[0].messages[0].content


async def test_what_a_camera_wrote_does_not_leave_whatever_was_handed_in() -> None:
    told = Picture(media_type="image/jpeg", data=jpeg(segment(0xE1, exif(1))))
    cloud = Seer(("a cat",))
    await read(Hybrid(near(("near", SURE)), cloud), asked(told))
    assert SECRET not in cloud.requests[0].messages[0].pictures[0].data


class NearSeer(Seer):
    """A near engine that sees, as a llama-server with a projector does."""


async def test_a_near_model_that_sees_is_shown_the_picture_and_nothing_leaves() -> None:
    edge, cloud = NearSeer(("a dog",)), ScriptedEngine(("far",))
    text, finish = await read(Hybrid(edge, cloud), asked())
    assert text == "a dog" and edge.requests[0].messages[0].pictures == (PLAIN,)
    assert finish.route is not None and finish.route.reason == "pictures_near"
    text, _ = await read(Hybrid(edge, cloud), asked(privacy=Privacy.LOCAL_ONLY))
    assert text == "a dog" and cloud.requests == []


def server(listed: dict[str, Any], sees: bool | None = None) -> tuple[Upstream, list[Any]]:
    """A server over HTTP that lists its model so; what it is asked is kept."""
    bodies: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/models"):
            return httpx.Response(200, json=listed)
        bodies.append(json.loads(request.content))
        return httpx.Response(200, content=sse(piece("a cat"), piece(reason="stop")))

    transport = httpx.MockTransport(handle)
    return Upstream("http://gpu:8000/v1", sees=sees, transport=transport), bodies


@pytest.mark.parametrize(
    ("listed", "sees", "expected"),
    [
        ({"data": [{"id": "m"}]}, None, False),
        ({"data": [{"id": "m"}]}, True, True),
        ({"data": [{"id": "m"}], "models": [{"capabilities": ["multimodal"]}]}, None, True),
        ({"data": [{"id": "m"}], "models": [{"capabilities": ["multimodal"]}]}, False, False),
        ({"data": [{"id": "m", "architecture": {"input_modalities": ["image"]}}]}, None, True),
    ],
)
async def test_a_server_says_whether_its_model_sees_or_the_settings_do(
    listed: dict[str, Any], sees: bool | None, expected: bool
) -> None:
    reached, _ = server(listed, sees)
    assert await reached.sees() is expected
    await reached.aclose()


async def test_a_server_over_http_gets_pictures_as_parts() -> None:
    reached, bodies = server({"data": [{"id": "m"}]}, sees=True)
    text, _ = await read(Hybrid(near(("near", SURE)), reached), asked())
    assert text == "a cat"
    first, second = bodies[0]["messages"][0]["content"]
    assert first["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert second == {"type": "text", "text": "what is it?"}
    await reached.aclose()
