"""A better answer comes later, once, to the turn it belongs to, and only while that stands."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge.chat.chat import Chat
from edge.chat.chat_commands import COMMANDS
from edge.chat.dialogue import AnswerOptions, answer
from edge.chat.upgrade_answers import AnswerUpgrader
from edge.conversations.forget import forget
from edge.conversations.store import Conversations
from offload.config.places import places
from offload.config.settings_sources import change_settings
from offload.egress.outbox import Outbox
from offload.errors import CloudUnreachable
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Delta, Finish, Privacy
from tests.edge.desks import TOKEN, office, serving
from tests.offload.scripted import ScriptedEngine
from tests.waiting import until


class Away(ScriptedEngine):
    """A cloud that is out of reach until it comes back."""

    def come_back(self) -> None:
        self.error = None


def away(*words: str) -> Away:
    return Away(words or ("far",), error=CloudUnreachable("nobody"))


def hybrid(cloud: ScriptedEngine) -> Hybrid:
    return Hybrid(ScriptedEngine(("near",)), cloud, options=HybridOptions(forced="cloud"))


async def asked(store: Conversations, engine: Hybrid, outbox: Outbox, privacy: Privacy) -> str:
    talk = store.begin()
    store.ask(talk, "why?")
    options = AnswerOptions(privacy=privacy, outbox=outbox)
    async for _ in answer(engine, store, talk, options):
        pass
    return talk


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(places().outbox, below=1.1)


async def test_it_comes_once_beside_the_first_when_the_cloud_is_back(outbox: Outbox) -> None:
    store, cloud = Conversations(), away("better")
    engine, upgrader = hybrid(cloud), AnswerUpgrader(outbox, store)
    talk = await asked(store, engine, outbox, Privacy.CLOUD_OK)
    assert await upgrader.look(engine) == 0 and store.read(talk).turns[1].waiting
    cloud.come_back()
    assert await upgrader.look(engine) == 1 and await upgrader.look(engine) == 0
    turn = store.read(talk).turns[1]
    assert turn.content == "near" and turn.better is not None and not turn.waiting
    assert turn.better.content == "better" and outbox.pending() == []


@pytest.mark.parametrize("privacy", [Privacy.ASK, Privacy.LOCAL_ONLY])
async def test_what_may_not_leave_unasked_does_not_wait(outbox: Outbox, privacy: Privacy) -> None:
    store = Conversations()
    talk = await asked(store, hybrid(away()), outbox, privacy)
    assert outbox.pending() == [] and not store.read(talk).turns[1].waiting


async def test_what_was_deleted_or_taken_back_is_never_asked(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cloud = Conversations(), away()
    engine = hybrid(cloud)
    deleted = await asked(store, engine, outbox, Privacy.CLOUD_OK)
    undone = await asked(store, engine, outbox, Privacy.CLOUD_OK)
    await forget(deleted, store, None, tmp_path)
    assert [each.request.session for each in outbox.pending()] == [undone]
    store.versions.undo(undone)
    cloud.come_back()
    before = len(cloud.requests)
    monkeypatch.setattr("edge.chat.upgrade_answers._STRAY_S", -1.0)
    assert await AnswerUpgrader(outbox, store).look(engine) == 0
    assert len(cloud.requests) == before and outbox.pending() == []


@pytest.mark.parametrize("has_cloud", [True, False])
async def test_a_turn_waits_no_longer_than_the_outbox_does(outbox: Outbox, has_cloud: bool) -> None:
    store, engine = Conversations(), hybrid(away())
    talk = await asked(store, engine, outbox, Privacy.CLOUD_OK)
    assert store.read(talk).turns[1].waiting
    outbox.forget("all")  # as `nearfar policy outbox` does, or the fifth try
    await AnswerUpgrader(outbox, store).look(engine if has_cloud else Hybrid(engine.edge, None))
    assert not store.read(talk).turns[1].waiting


class Person:
    """Asks once, and writes the next line when a better answer has come."""

    def __init__(self, store: Conversations, cloud: Away) -> None:
        self._store, self._cloud = store, cloud
        self._num_read = 0
        self.remarks: list[str] = []

    async def read(self) -> str:
        self._num_read += 1
        if self._num_read == 1:
            return "why?"
        if self._num_read == 2:
            self._cloud.come_back()
            await until(lambda: self._store.read(self._store.latest()).turns[1].better is not None)
            return "/why"
        raise EOFError

    def answering(self) -> AbstractContextManager[None]:
        return nullcontext()

    def reading(self, progress: str) -> None: ...
    def show(self, delta: Delta) -> None: ...
    def end(self, text: str, finish: Finish | None) -> None: ...

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def fail(self, text: str) -> None:
        raise AssertionError(text)

    async def choose(self, question: str, choices: Mapping[str, str]) -> str:
        return list(choices)[-1]


async def test_the_chat_shows_both_at_the_next_prompt(outbox: Outbox) -> None:
    store, cloud = Conversations(), away("better")
    person = Person(store, cloud)
    upgrader = AnswerUpgrader(outbox, store, first_s=0.01, longest_s=0.02)
    options = AnswerOptions(privacy=Privacy.CLOUD_OK, outbox=outbox)
    await Chat(
        hybrid(cloud), person, store, options=options, commands=COMMANDS, upgrader=upgrader
    ).run()
    told = person.remarks
    at = next(n for n, each in enumerate(told) if "better answer is ready" in each)
    assert told[at + 1 : at + 3] == ["near: near", "far:  better"]
    assert sum("better answer is ready" in each for each in told) == 1


async def test_the_assistant_keeps_it_and_tells_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    cloud = away("better")
    opened = office(far=cloud, forced="cloud")
    change_settings(places().config_file, "policy", {"privacy": "cloud_ok"})
    opened.assistant.outbox = Outbox(places().outbox, below=1.1)
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        serving(opened),
        httpx.AsyncClient(base_url=opened.url, headers=headers, timeout=60) as http,
    ):
        talk = (await http.post("/api/conversations", json={})).json()["id"]
        await http.post(f"/api/conversations/{talk}/ask", json={"text": "why?"})
        await http.get(f"/api/conversations/{talk}/stream")

        async def first() -> Any:
            return (await http.get(f"/api/conversations/{talk}")).json()["turns"][1]

        turn = await first()
        assert turn["waiting"] and turn["better"] is None and turn["content"] == "near answer"
        cloud.come_back()
        opened.answers.after()
        await until(lambda: opened.store.read(talk).turns[1].better is not None)
        turn = await first()
        assert turn["better"]["content"] == "better" and turn["better"]["why"]
        assert turn["content"] == "near answer" and not turn["waiting"]
