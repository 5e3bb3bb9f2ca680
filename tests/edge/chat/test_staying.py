"""What may not leave when it is said never leaves later: each turn keeps its class."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import msgspec
import pytest

from edge.chat.consent import ConsentPrompt, Reply
from edge.chat.dialogue import AnswerOptions, answer
from edge.conversations.conversation import Conversation, export
from edge.conversations.conversation_schema import MIGRATIONS
from edge.conversations.store import Conversations
from offload.egress.door import Door, EgressEngine
from offload.egress.outbox import Outbox
from offload.egress.permission import Allowed
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Finish, Privacy, Request, Route
from offload.policy.serving.rule import ThresholdRule
from tests.offload.scripted import ScriptedEngine

SECRET = "the vault opens at 4711"


class Desk:
    """A store and two scripted engines, with a door between them."""

    def __init__(self, store: Conversations, *, replies: list[Reply] | None = None) -> None:
        self.store = store
        self.near, self.cloud = ScriptedEngine(("near",)), ScriptedEngine(("far",))
        self.allowed = Allowed()
        self.outbox = Outbox(None, below=2.0)
        self._replies = replies or []
        consent = ConsentPrompt(
            self._reply, None, refused=lambda r: store.keep_here(r.session or "")
        )
        door = Door(
            endpoint="tcp://cloud:1",
            allowed=lambda: self.allowed,
            consent=lambda request, _: consent(request),
        )
        self.hybrid = Hybrid(
            self.near,
            EgressEngine(self.cloud, door=door),
            options=HybridOptions(rule=ThresholdRule(min_logprob=-0.1)),  # never so sure
            consent=consent,
            allowed=lambda: self.allowed,
        )
        self.conversation = store.begin()

    async def _reply(self, _: Request) -> Reply:
        return self._replies.pop(0)

    async def ask(self, text: str, privacy: Privacy = Privacy.CLOUD_OK) -> Finish:
        self.store.ask(self.conversation, text, privacy)
        return await self.again(privacy)

    async def again(self, privacy: Privacy = Privacy.CLOUD_OK) -> Finish:
        options = AnswerOptions(privacy=privacy, outbox=self.outbox)
        *_, last = [
            item async for item in answer(self.hybrid, self.store, self.conversation, options)
        ]
        assert isinstance(last, Finish)
        return last

    @property
    def left(self) -> str:
        return "".join(msgspec.json.encode(request).decode() for request in self.cloud.requests)


@pytest.fixture
def store() -> Conversations:
    return Conversations()


async def test_a_local_only_turn_stays_when_the_conversation_goes_on(store: Conversations) -> None:
    assistant = Desk(store)
    await assistant.ask("a plain question")
    await assistant.ask(SECRET, Privacy.LOCAL_ONLY)
    finish = await assistant.ask("and now?")
    assert len(assistant.cloud.requests) == 2 and SECRET not in assistant.left
    assert [each.content for each in assistant.cloud.requests[-1].messages] == [
        "a plain question",
        "far",
        "and now?",
    ]
    assert finish.route is not None and finish.route.left_out == 2
    assert SECRET in "".join(each.content for each in assistant.near.requests[-1].messages)


async def test_what_was_answered_near_from_a_turn_that_stays_stays_too(
    store: Conversations,
) -> None:
    assistant = Desk(store)
    await assistant.ask(SECRET, Privacy.LOCAL_ONLY)
    assistant.allowed = Allowed(offline=True)
    await assistant.ask("what opens at 4711?")  # near: its answer may say what it has read
    assistant.allowed = Allowed()
    await assistant.ask("and now?")
    assert [each.content for each in assistant.cloud.requests[-1].messages] == ["and now?"]


@pytest.mark.parametrize("refusal", ["no", "never"])
async def test_a_refused_message_never_leaves_later(store: Conversations, refusal: Reply) -> None:
    assistant = Desk(store, replies=[refusal])
    await assistant.ask(SECRET, Privacy.ASK)
    await _go_on(assistant)
    assert assistant.cloud.requests and SECRET not in assistant.left


async def _go_on(assistant: Desk) -> None:
    """Go on with the same conversation in another run, where all may leave."""
    later = Desk(assistant.store)
    later.conversation = assistant.conversation
    await later.again()  # retried
    assert not later.cloud.requests
    await later.ask("and now?")
    assistant.cloud.requests += later.cloud.requests


async def test_a_conversation_may_be_kept_near_as_a_whole(store: Conversations) -> None:
    assistant = Desk(store)
    assistant.allowed = Allowed(keeps_whole=True)
    await assistant.ask(SECRET, Privacy.LOCAL_ONLY)
    finish = await assistant.ask("and now?")
    assert not assistant.cloud.requests
    assert finish.route is not None and finish.route.reason == "private_turns"


async def test_a_private_system_prompt_stays(store: Conversations) -> None:
    assistant = Desk(store)
    store.instruct(assistant.conversation, SECRET, Privacy.LOCAL_ONLY)
    await assistant.ask("and now?")
    assert assistant.cloud.requests and SECRET not in assistant.left


async def test_the_outbox_takes_no_turn_that_stays(store: Conversations) -> None:
    assistant = Desk(store)
    await assistant.ask(SECRET, Privacy.LOCAL_ONLY)
    assistant.allowed = Allowed(offline=True)
    await assistant.ask("and now?")
    (waiting,) = assistant.outbox.pending()
    assert SECRET not in msgspec.json.encode(waiting.request).decode()


async def test_an_exported_conversation_keeps_each_class(store: Conversations) -> None:
    assistant = Desk(store)
    await assistant.ask(SECRET, Privacy.LOCAL_ONLY)
    await assistant.ask("and now?")
    whole = store.read(assistant.conversation)
    read = msgspec.json.decode(export(whole, "json"), type=Conversation)
    assert [each.stays for each in read.messages()] == [True, True, False, False]


def _older(path: Path, turns: list[tuple[str, str, Finish | None]]) -> None:
    """Write a file as it was before turns had classes."""
    db = sqlite3.connect(path, isolation_level=None)
    for step in MIGRATIONS[:2]:
        step(db)
        db.execute("COMMIT")
    db.execute("PRAGMA user_version=2")
    db.execute("INSERT INTO conversation VALUES ('one', 'title', 'system', 1, 1)")
    for role, content, finish in turns:
        told = msgspec.json.encode(finish).decode() if finish else ""
        db.execute(
            "INSERT INTO turn (conversation, role, content, state, finish, created_at) "
            "VALUES ('one', ?, ?, 'whole', ?, 1)",
            (role, content, told),
        )
    db.close()


def _by(served_by: str, reason: str) -> Finish:
    return Finish(reason="stop", route=Route(served_by=served_by, reason=reason))  # type: ignore[arg-type]


def test_an_older_file_tells_by_its_routes_what_must_stay(tmp_path: Path) -> None:
    _older(
        tmp_path / "kept.sqlite",
        [
            ("user", "open", None),
            ("assistant", "far", _by("cloud", "unsure")),
            ("user", SECRET, None),
            ("assistant", "near", _by("edge", "local_only")),
            ("user", "plain", None),
            ("assistant", "near, with the secret before it", _by("edge", "confident")),
            ("user", "refused", None),
            ("assistant", "near", _by("edge", "not_allowed")),
            ("user", "stopped: nobody knows", None),
            ("assistant", "", None),
        ],
    )
    turns = Conversations(tmp_path / "kept.sqlite").read("one").turns
    stays = [each.privacy is Privacy.LOCAL_ONLY for each in turns]
    assert stays == [False, False, True, True, False, True, True, True, True, True]
    assert json.loads(msgspec.json.encode(turns[0]))["privacy"] == "ask"
