"""The assistant's server around scripted engines, for tests with and without a browser."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import uvicorn

from edge.assistant.app import build_app
from edge.assistant.engine_settings import AssistantEngine
from edge.assistant.running_answers import RunningAnswers
from edge.conversations.store import Conversations
from edge.near.factory import RunFlags
from offload.config.places import Places, places
from offload.config.settings import Settings
from offload.config.settings_reading import load
from offload.egress.permission import AskConsent, LivePermission
from offload.engine import Engine
from offload.hybrid.answer_pair import Learner
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Delta, Request
from tests.offload.scripted import ScriptedEngine

TOKEN = "a-token-of-the-tests"


async def _never(_: Request) -> bool:
    return False


@dataclass(kw_only=True)
class Office:
    """What a test may look at: the store, the desk, and both scripted sides."""

    store: Conversations
    answers: RunningAnswers
    assistant: AssistantEngine
    near: ScriptedEngine
    far: ScriptedEngine
    url: str = ""

    @property
    def link(self) -> str:
        return f"{self.url}/#token={TOKEN}"


def office(
    near: Sequence[str | Delta] | ScriptedEngine = ("near ", "answer"),
    far: Sequence[str | Delta] | ScriptedEngine = ("far ", "answer"),
    *,
    forced: str | None = None,
    learner: Learner | None = None,
    offline: bool = False,
) -> Office:
    """A desk whose hybrid is scripted; it asks the far side only where `forced` says so."""
    edge = near if isinstance(near, ScriptedEngine) else ScriptedEngine(near)
    cloud = far if isinstance(far, ScriptedEngine) else ScriptedEngine(far)

    def opened(settings: Settings, here: Places, choice: RunFlags) -> Engine:
        options = HybridOptions(
            forced=forced or "edge",  # type: ignore[arg-type]
            offline=choice.offline,
        )
        consent: AskConsent = choice.consent or _never
        far_side = None if choice.offline else cloud
        allowed = LivePermission(here.config_file)
        return Hybrid(
            edge, far_side, options=options, consent=consent, learner=learner, allowed=allowed
        )

    here = places()
    store = Conversations(here.conversations)
    answers = RunningAnswers(store)
    assistant = AssistantEngine(
        load(here.config_file),
        here,
        ask=answers.consent,
        refused=answers.refused,
        offline=offline,
        open_engine=opened,
    )
    return Office(store=store, answers=answers, assistant=assistant, near=edge, far=cloud)


class _Server(uvicorn.Server):
    """A server that tells when it listens, or that it never will."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.listens.set()


@contextlib.asynccontextmanager
async def serving(opened: Office, port: int = 0) -> AsyncIterator[Office]:
    """Serve the page on loopback as `nearfar assistant` does."""
    app = build_app(opened.assistant, opened.store, opened.answers, token=TOKEN)
    config = uvicorn.Config(app, port=port, http="h11", ws="none", log_config=None)
    config.timeout_graceful_shutdown = 1
    server = _Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    job = asyncio.create_task(server.serve())
    await server.listens.wait()
    opened.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield opened
    finally:
        server.should_exit = True
        await job
        opened.store.close()
