"""The near model of `nearfar up` for `ask` and `chat`, found by a private file with a token."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from subprocess import PIPE

import httpx
import msgspec
import pytest

from backbone.errors import CheckpointError, NearfarError, RequestError
from edge.near.factory import RunFlags, open_hybrid
from edge.near.shared_engine import SharedEngine
from offload.asker import asker
from offload.config import running_service
from offload.config.places import places
from offload.config.running_service import GENERATE_PATH, Service
from offload.config.settings import EdgeSettings, PolicySettings, Settings
from offload.engine import AnswerStream, Engine
from offload.errors import ContextLengthError, EngineStopped, Overloaded
from offload.messages import Delta, Finish, Request, Sampling
from offload.reading import heard_by, listener
from serve.app import build_app
from serve.near_endpoint import NearEndpoint
from serve.options import ServeOptions
from serve.server import HttpServer
from tests.offload.scripted import CARD, ScriptedEngine

TOKEN = "t" * 32
ASK = Request(prompt="count", sampling=Sampling(max_tokens=8))


class Models:
    """One scripted engine for whatever is asked; notes by whom, and what it forgets."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine, self.edges = engine, list[EdgeSettings]()

    def engine_at(self, edge: EdgeSettings) -> Engine:
        self.edges.append(edge)
        return self.engine


@asynccontextmanager
async def running(engine: ScriptedEngine) -> AsyncIterator[tuple[Service, Models]]:
    options, models = ServeOptions(port=0, warm_up=False), Models(engine)
    app = build_app(engine, options=options, further=NearEndpoint(models, TOKEN).routes)
    server = HttpServer(app, options=options)
    await server.start()
    try:
        yield Service(pid=os.getpid(), url=server.url, token=TOKEN), models
    finally:
        await server.aclose(goodbye_s=0.0)


async def test_an_answer_comes_with_its_confidence_and_the_models_card() -> None:
    engine = ScriptedEngine()
    direct = [item async for item in ScriptedEngine().generate(ASK)]
    async with running(engine) as (service, models):
        shared = SharedEngine(service, EdgeSettings(window=32), places())
        assert shared.card().name == "nearfar-edge", "as its file says"
        assert [item async for item in shared.generate(ASK)] == direct
        assert shared.card() == CARD, "as the engine says"
    assert models.edges[0].window == 32 and models.edges[0].model.endswith(".gguf")
    assert engine.requests[0] == ASK


async def test_how_much_of_a_long_prompt_was_read_is_told_here() -> None:
    class Reading(ScriptedEngine):
        async def generate(self, request: Request) -> AnswerStream:
            progress = listener()
            assert progress is not None
            progress(256, 900)
            await asyncio.sleep(0)
            async with aclosing(super().generate(request)) as items:
                async for item in items:
                    yield item

    told: list[tuple[int, int]] = []
    async with running(Reading()) as (service, _):
        with heard_by(lambda num_read, num_tokens, _: told.append((num_read, num_tokens))):
            shared = SharedEngine(service, EdgeSettings(), places())
            assert len([item async for item in shared.generate(ASK)]) == 4
    assert told == [(256, 900)]


async def test_leaving_the_answer_ends_it_in_the_service() -> None:
    engine = ScriptedEngine(hold=asyncio.Event())
    async with running(engine) as (service, _):
        shared = SharedEngine(service, EdgeSettings(), places())
        async with aclosing(shared.generate(ASK)) as items:
            assert isinstance(await anext(items), Delta)
        async with engine.changed:
            await engine.changed.wait_for(lambda: ASK.id in engine.cancelled)


@pytest.mark.parametrize(
    "error",
    [
        RequestError("no such thing; write another"),
        ContextLengthError(900, 512),
        CheckpointError("damaged; fetch it again"),
        Overloaded("later"),
        EngineStopped("closed"),
        NearfarError("anything"),
    ],
)
async def test_an_error_arrives_as_what_it_is(error: NearfarError) -> None:
    async with running(ScriptedEngine(error=error)) as (service, _):
        shared = SharedEngine(service, EdgeSettings(), places())
        with pytest.raises(type(error)) as told:
            async for _ in shared.generate(ASK):
                pass
    assert str(told.value) == str(error) and type(told.value) is type(error)


async def test_a_conversation_is_the_persons_own_and_can_be_forgotten() -> None:
    forgotten: list[tuple[str, str]] = []

    class Keeping(ScriptedEngine):
        async def forget(self, session: str) -> None:
            forgotten.append((asker(), session))

    async with running(Keeping()) as (service, _):
        await SharedEngine(service, EdgeSettings(), places()).forget("a-conversation")
    assert forgotten == [("", "a-conversation")]


async def test_without_the_token_or_from_a_page_nothing_is_answered() -> None:
    async with running(ScriptedEngine()) as (service, _):
        async with httpx.AsyncClient(base_url=service.url) as client:
            body = {"edge": {}, "request": {"prompt": "x"}}
            wrong = {"authorization": f"Bearer {'x' * 32}"}
            assert (await client.post(GENERATE_PATH, json=body)).status_code == 401
            assert (await client.post(GENERATE_PATH, json=body, headers=wrong)).status_code == 401
            right = {"authorization": f"Bearer {TOKEN}"}
            odd = await client.post(GENERATE_PATH, json={"other": 1}, headers=right)
            assert odd.status_code == 400
            text = {**right, "content-type": "text/plain"}
            assert (
                await client.post(GENERATE_PATH, content=b"{}", headers=text)
            ).status_code == 415
        with pytest.raises(EngineStopped, match="HTTP 401"):
            shared = SharedEngine(
                Service(pid=1, url=service.url, token="other"), EdgeSettings(), places()
            )
            async for _ in shared.generate(ASK):
                pass


async def test_a_service_that_is_gone_is_told_in_one_line() -> None:
    async with running(ScriptedEngine()) as (service, _):
        pass
    with pytest.raises(EngineStopped, match=r"nearfar up.*gone.*ask again"):
        async for _ in SharedEngine(service, EdgeSettings(), places()).generate(ASK):
            pass


async def test_commands_find_the_service_by_its_private_file_and_start_alone_without() -> None:
    # A threshold reads no hidden states, which do not leave the process that has the model.
    settings = Settings(policy=PolicySettings(min_logprob=-0.5))
    flags = RunFlags(offline=True, shared=True)
    async with running(ScriptedEngine(["shared"])) as (service, _):
        path = running_service.note(places(), service.url, service.token)
        assert path.stat().st_mode & 0o777 == 0o600
        for shared, said in [(True, "shared"), (False, None)]:
            hybrid = open_hybrid(settings, places(), replace(flags, shared=shared))
            async with aclosing(hybrid):
                items = [item async for item in hybrid.generate(ASK)]
            assert isinstance(items[-1], Finish)
            assert said is None or items[0].text == said  # type: ignore[union-attr]
            assert isinstance(hybrid.edge, SharedEngine) is shared
        off = replace(settings, edge=EdgeSettings(use_service=False))
        hybrid = open_hybrid(off, places(), flags)
        assert not isinstance(hybrid.edge, SharedEngine)
        await hybrid.aclose()
        path.chmod(0o644)
        assert running_service.find(places()) is None, "others could have written it"
        path.chmod(0o600)
        assert running_service.find(places()) == service
    assert running_service.find(places()) is None, "nothing listens there any more"
    running_service.forget(path)
    assert not path.exists()


@pytest.mark.parametrize("pid", [os.getpid(), 1 << 22])
def test_who_has_the_port_of_a_service_that_was_killed_is_asked_nothing(pid: int) -> None:
    script = (
        "import socket, sys\n"
        "with socket.create_server(('127.0.0.1', 0)) as held:\n"
        "    print(held.getsockname()[1], flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout is not None
        url = f"http://127.0.0.1:{int(other.stdout.readline())}"
        path = running_service.note(places(), url, TOKEN)
        noted = Service(pid=pid, url=url, token=TOKEN)
        path.write_bytes(msgspec.json.encode(noted))
        assert running_service.find(places()) is None
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(noted, pid=other.pid)))
        assert running_service.find(places()) is not None, "its own process is found"
        other.communicate()
