"""What `nearfar ask` left waiting is told once the cloud may be in reach, and never sent."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from edge.chat import ask
from edge.chat.ask import ask_once
from edge.chat.ask_options import AskOptions
from edge.chat.chat_setup import ConversationChoice, chat_on
from edge.chat.terminal import StreamReader
from edge.chat.upgrade_answers import is_in_reach, waiting_line
from offload.config.places import places
from offload.config.settings import Settings
from offload.egress.outbox import Outbox
from offload.messages import Delta, Finish, Message, Request, Route
from tests.offload.scripted import ScriptedEngine

UNSURE = Finish(reason="stop", route=Route(served_by="edge", reason="unreachable", confidence=0.1))


def asked(session: str | None = None) -> Request:
    return Request(messages=(Message(role="user", content="What is it?"),), session=session)


def test_only_what_no_conversation_will_ask_again_is_told(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "waiting.json")
    assert waiting_line(outbox) == ""
    outbox.put(asked("a conversation"), "perhaps", UNSURE)
    assert waiting_line(outbox) == ""
    outbox.put(asked(), "perhaps", UNSURE)
    assert waiting_line(outbox).startswith("1 earlier question waits")
    outbox.put(asked(), "perhaps", UNSURE)
    assert waiting_line(outbox).startswith("2 earlier questions wait")
    assert "nearfar policy outbox --ask" in waiting_line(outbox)


def test_a_damaged_outbox_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "waiting.json").write_text("not json")
    assert "is damaged" in waiting_line(Outbox(tmp_path / "waiting.json"))


@pytest.mark.parametrize(
    ("reason", "failure", "within"),
    [
        ("unsure", None, True),
        ("confident", None, True),
        ("offline", None, False),
        ("unreachable", None, False),
        ("no_cloud", None, False),
        ("local_only", None, False),
        ("unsure", "nothing answers", False),
    ],
)
def test_a_cloud_is_in_reach_where_nothing_says_otherwise(
    reason: str, failure: str | None, within: bool
) -> None:
    route = Route(served_by="edge", reason=reason, failure=failure)
    assert is_in_reach(Finish(reason="stop", route=route)) is within


@pytest.mark.parametrize(("offline", "told"), [(False, True), (True, False)])
def test_the_next_question_tells_what_waits_and_sends_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], offline: bool, told: bool
) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    outbox = Outbox(places().outbox)
    outbox.put(asked(), "perhaps", UNSURE)
    reason = "offline" if offline else "confident"
    end = Finish(reason="stop", route=Route(served_by="edge", reason=reason, confidence=0.9))
    engine = ScriptedEngine([Delta(text="42")], finish=end)

    async def answered(
        settings: Settings, wish: AskOptions, request: Request, reader: StreamReader
    ) -> Finish:
        return await reader.read(engine.generate(request))

    monkeypatch.setattr(ask, "_ask", answered)
    assert ask_once("What is 17 + 25?", AskOptions(offline=offline), why=False, as_json=False) == 0
    captured = capsys.readouterr()
    assert captured.out == "42\n"
    assert ("1 earlier question waits" in captured.err) is told
    assert len(outbox.pending()) == 1
    assert [request.last_text() for request in engine.requests] == ["What is 17 + 25?"]


def test_a_chat_tells_at_its_start_what_waits_and_leaves_it_waiting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    monkeypatch.setenv("NEARFAR_CLOUD_CONNECT_TIMEOUT_S", "0.2")
    typed = io.BytesIO(b"What is the capital of France?\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(typed))
    outbox = Outbox(places().outbox)
    outbox.put(asked(), "perhaps", UNSURE)
    chat_on(AskOptions(), ConversationChoice(keep=True), "", as_json=False)
    captured = capsys.readouterr()
    assert "Paris" in captured.out and "1 earlier question waits" in captured.err
    assert len(outbox.pending()) == 1


def test_what_is_asked_offline_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    monkeypatch.setenv("NEARFAR_POLICY_PRIVACY", "cloud_ok")
    end = Finish(reason="stop", route=Route(served_by="edge", reason="offline", confidence=0.1))
    engine = ScriptedEngine([Delta(text="perhaps")], finish=end)

    async def answered(
        settings: Settings, wish: AskOptions, request: Request, reader: StreamReader
    ) -> Finish:
        return await reader.read(engine.generate(request))

    monkeypatch.setattr(ask, "_ask", answered)
    for offline, num_waiting in ((True, 0), (False, 1)):
        ask_once("What is it?", AskOptions(offline=offline), why=False, as_json=False)
        assert len(Outbox(places().outbox).pending()) == num_waiting


def test_what_is_said_in_an_offline_chat_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    monkeypatch.setenv("NEARFAR_CLOUD_CONNECT_TIMEOUT_S", "0.2")
    monkeypatch.setenv("NEARFAR_POLICY_PRIVACY", "cloud_ok")
    monkeypatch.setattr(Outbox, "_is_worth_it", lambda *_: True)  # however sure the model is
    for offline, num_waiting in ((True, 0), (False, 1)):
        typed = io.BytesIO(b"What is the capital of France?\n")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(typed))
        chat_on(AskOptions(offline=offline), ConversationChoice(), "", as_json=False)
        assert len(Outbox(places().outbox).pending()) == num_waiting
