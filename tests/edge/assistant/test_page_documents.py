"""Documents and tools on the page: over HTTP, and in a real Chromium."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edge.assistant import page_documents
from offload.config.places import places
from offload.config.settings_sources import change_settings
from offload.messages import Request
from tests.edge.assistant.test_assistant import ask as ask_over_http
from tests.edge.assistant.test_assistant import client, events
from tests.edge.assistant.test_page import serious
from tests.edge.browser import IN_A_BROWSER, ask, page, ready
from tests.edge.desks import Office, office, serving
from tests.offload.documents.pdfs import locked, pdf
from tests.offload.scripted import ScriptedEngine

PAGES = [f"Page {n} is about lamps.\nThe fee of berth {n} is {100 + n} crowns." for n in range(900)]
CALL = '<tool_call>\n{"name": "current_time", "arguments": {"zone": "UTC"}}\n</tool_call>'


def sized(width: int) -> dict[str, Any]:
    return {"viewport": {"width": width, "height": 800}}


def calling(request: Request) -> Sequence[str]:
    last = request.messages[-1]
    return ("It is ", last.content) if last.role == "tool" else ("Let me look.\n", CALL)


def with_time(near: ScriptedEngine | None = None) -> Office:
    change_settings(places().config_file, "tools", {"time": True})
    return office(near or ScriptedEngine(script=calling))


async def test_a_small_document_comes_back_as_text_and_a_fault_as_one_line() -> None:
    async with client(office()) as http:
        small = await http.post("/api/documents?name=../a.pdf", content=pdf(PAGES[:2]))
        assert small.json()["name"] == "a.pdf" and "101 crowns" in small.json()["content"]
        refused = await http.post("/api/documents?name=b.pdf", content=locked(pdf(["a"]), "x"))
        assert refused.status_code == 400 and "password" in refused.json()["error"]
        empty = await http.post("/api/documents?name=c.txt", content=b"")
        assert "is empty" in empty.json()["error"]


async def test_a_long_document_is_searched_for_each_question_and_goes_with_its_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = office()
    async with client(opened) as http:
        kept = (await http.post("/api/documents?name=long.pdf", content=pdf(PAGES))).json()
        assert kept["about"] == "900 pages" and (places().attached / kept["id"]).is_dir()
        question = "What is the fee of berth 777?"
        talk, _ = await ask_over_http(http, question, documents=[kept["id"]])
        asked = opened.near.requests[0].messages[-1].content
        assert "long.pdf, page 778:" in asked and "877 crowns" in asked and len(asked) < 9000
        whole = (await http.get(f"/api/conversations/{talk}")).json()
        assert whole["documents"] == [{"id": kept["id"], "name": "long.pdf"}]
        gone = await http.post(
            f"/api/conversations/{talk}/ask", json={"text": "x", "documents": ["../keys"]}
        )
        assert gone.status_code == 400 and "is gone" in gone.json()["error"]
    monkeypatch.setattr(page_documents, "_UNUSED_S", -1.0)
    again = office()
    async with client(again) as http:
        assert (places().attached / kept["id"]).is_dir(), "a conversation has it"
        await again.assistant.forget(talk, again.store)
        assert not (places().attached / kept["id"]).exists()


async def test_a_call_waits_for_a_word_and_its_result_is_a_turn_of_its_own() -> None:
    async with client(with_time()) as http:
        talk = (await http.post("/api/conversations", json={})).json()["id"]
        await http.post(f"/api/conversations/{talk}/ask", json={"text": "What time is it?"})
        watching = asyncio.create_task(events(http, talk))
        while not watching.done():
            await asyncio.sleep(0)
            await http.post(f"/api/conversations/{talk}/call", json={"reply": "once"})
        told = watching.result()
        kinds = [event["type"] for event in told]
        assert kinds[-1] == "finish" and "tool" in kinds
        whole = (await http.get(f"/api/conversations/{talk}")).json()
        assert [turn["role"] for turn in whole["turns"]] == [
            "user",
            "assistant",
            "tool",
            "assistant",
        ]
        assert whole["turns"][3]["content"] == f"It is {whole['turns'][2]['content']}"


class TestInABrowser:
    """What a person does with a mouse or a keyboard."""

    pytestmark = IN_A_BROWSER

    @pytest.mark.parametrize("width", [1280, 390])
    async def test_a_document_is_attached_asked_about_and_stays(
        self, tmp_path: Path, width: int
    ) -> None:
        path = tmp_path / "long.pdf"
        path.write_bytes(pdf(PAGES))
        async with serving(office()) as opened, page(bypass_csp=True, **sized(width)) as tab:
            await ready(opened, tab)
            await tab.set_input_files("#file", str(path))
            await tab.locator("#documents .chip", has_text="long.pdf (900 pages)").wait_for()
            await ask(tab, "What is the fee of berth 777?")
            await tab.locator(".route .badge.near").wait_for()
            await tab.locator(".bubble details", has_text="long.pdf, page 778").wait_for()
            assert await serious(tab) == []
            await tab.reload()
            await tab.locator("#documents .chip", has_text="long.pdf").click()
            assert await tab.locator("#documents .chip").count() == 0

    @pytest.mark.parametrize("width", [1280, 390])
    async def test_a_call_is_asked_about_shown_and_answered_from(self, width: int) -> None:
        opened = with_time()
        async with serving(opened), page(bypass_csp=True, **sized(width)) as tab:
            await ready(opened, tab)
            await ask(tab, "What time is it?")
            dialog = tab.locator("#choice")
            await dialog.get_by_text("current_time").wait_for()
            assert await serious(tab) == []
            await tab.reload()  # the question is not lost by it
            await dialog.get_by_text("This call").click()
            await tab.locator(".tool summary", has_text="current_time").wait_for()
            await tab.locator(".route .badge.near").wait_for()
            assert await tab.locator("#thread > article").count() == 4
            assert await serious(tab) == []
