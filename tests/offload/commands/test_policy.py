"""The commands that tell what left: lines for people, one JSON document for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from offload.commands.policy import policy_app
from offload.config.places import places
from offload.egress.ledger.entries import Departure, DepartureOutcome
from offload.egress.ledger.ledger import Ledger
from offload.egress.outbox import Outbox
from offload.errors import RequestError
from offload.messages import Finish, Request, Route
from offload.reasons import Decision


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path))


def say(*words: str, stdin: str | None = None) -> str:
    result = CliRunner().invoke(policy_app, list(words), input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def write() -> None:
    ledger = Ledger(places().ledger)
    departure = Departure(
        request_id="abc",
        left_at=1e9,
        endpoint="tcp://cloud:1",
        why="unsure",
        privacy="cloud_ok",
        num_bytes=321,
        digest="ab" * 32,
    )
    ledger.leaving(departure)
    ledger.returned(departure.key, DepartureOutcome(state="answered", bytes_sent=300))
    route = Route(served_by="cloud", reason="unsure")
    decision = Decision(
        request_id="abc", began_at=1e9, inputs={}, finish=Finish(reason="stop", route=route)
    )
    ledger.record(Request(id="abc", prompt="x"), decision)
    ledger.close()


def test_the_ledger_lists_what_left() -> None:
    assert "nothing has left" in say("ledger")
    write()
    assert "300 bytes" in say("ledger") and "tcp://cloud:1" in say("ledger")
    document = json.loads(say("ledger", "--json"))
    assert document["totals"]["num_bytes"] == 300
    assert document["left"][0]["departure"]["why"] == "unsure"


def test_a_decision_is_explained_by_id_and_as_the_last() -> None:
    write()
    assert say("explain", "abc") == say("explain") == say("explain", "last")
    assert "300 bytes" in say("explain")
    assert json.loads(say("explain", "--json"))["decision"]["request_id"] == "abc"
    with pytest.raises(RequestError):
        say("explain", "other")


def test_a_text_is_shown_as_it_would_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    assert say("outgoing", "mail bob@example.com") == "mail [EMAIL_1]\n"
    assert "[EMAIL_1]" in say("outgoing", "-", stdin="mail bob@example.com")
    monkeypatch.setenv("NEARFAR_PRIVACY_EMAIL", "block")
    assert "would not leave" in say("outgoing", "mail bob@example.com")
    document = json.loads(say("outgoing", "mail bob@example.com", "--json"))
    assert document["leaves"] is False and document["found"] == {"email block": 1}


def test_what_waits_is_listed_and_forgotten() -> None:
    route = Route(served_by="edge", reason="offline", confidence=0.1)
    Outbox(places().outbox).put(Request(prompt="why?"), "so", Finish(reason="stop", route=route))
    assert "why?" in say("outbox") and json.loads(say("outbox", "--json"))[0]["answer"] == "so"
    assert json.loads(say("outbox", "--forget", "all", "--json")) == {"forgotten": 1}
    assert json.loads(say("outbox", "--json")) == []
