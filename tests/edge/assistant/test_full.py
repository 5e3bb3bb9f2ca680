"""A disk that is full in the middle of a conversation is told as that, and ends nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from edge.assistant.app import build_app
from edge.conversations.store import Conversations
from offload.errors import SettingsError
from tests.edge.desks import TOKEN, Office, office

LONG = "word " * 40_000


def fill(store: Conversations) -> None:
    """Let the file grow no further: SQLite then says what it says of a full disk."""
    store.database.execute("PRAGMA max_page_count = 1")


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    store = Conversations(tmp_path / "conversations.sqlite")
    conversation = store.begin()
    fill(store)
    with pytest.raises(
        SettingsError, match=r"cannot be written: the disk of .* is full; free some"
    ):
        store.ask(conversation, LONG)
    assert store.read(conversation).turns == ()
    store.close()


async def answered(opened: Office, text: str, *, full: bool) -> tuple[httpx.Response, str]:
    app = build_app(opened.assistant, opened.store, opened.answers, token=TOKEN)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:1", headers=headers
    ) as http:
        conversation = (await http.post("/api/conversations", json={})).json()["id"]
        if full:
            fill(opened.store)
        asked = await http.post(f"/api/conversations/{conversation}/ask", json={"text": text})
        stream = await http.get(f"/api/conversations/{conversation}/stream")
        return asked, stream.text


async def test_the_page_is_told_when_a_question_cannot_be_kept() -> None:
    asked, _ = await answered(office(), LONG, full=True)
    assert asked.status_code == 400 and "is full; free some" in asked.json()["error"]


async def test_the_page_is_told_when_an_answer_cannot_be_kept() -> None:
    asked, stream = await answered(office((LONG, LONG)), "go on", full=True)
    assert asked.status_code == 202
    events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
    assert events[-1]["type"] == "error" and "is full; free some" in events[-1]["error"]
