"""Versions on the page: nothing is lost by editing, retrying, stopping or deleting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from offload.config.places import places
from offload.config.settings_sources import change_settings
from offload.messages import Finish
from tests.edge.browser import IN_A_BROWSER, ask, page, ready
from tests.edge.desks import Office, office, serving
from tests.offload.scripted import ScriptedEngine

playwright = pytest.importorskip("playwright.async_api", reason="playwright drives the browser")

pytestmark = IN_A_BROWSER


def shown(opened: Office) -> list[str]:
    return [turn.content for turn in opened.store.read(opened.store.latest()).turns]


async def edit(tab: Any) -> None:
    await tab.locator(".question").first.hover()
    await tab.locator(".edit").first.click()


async def test_a_question_is_asked_in_other_words_and_the_first_stays_as_a_version() -> None:
    expect = playwright.expect
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "wrogn words")
        await tab.locator(".route .badge").wait_for()
        await tab.fill("#question", "a draft")
        await edit(tab)
        await expect(tab.locator("#question")).to_have_value("wrogn words")
        assert shown(opened) == ["wrogn words", "near answer"], (
            "nothing has changed until it is sent"
        )
        await tab.keyboard.press("Escape")
        await expect(tab.locator("#question")).to_have_value("a draft")
        await edit(tab)
        await tab.reload()  # what is being changed outlives it
        await tab.locator("#status:not(:empty)").wait_for()
        await expect(tab.locator("#question")).to_have_value("wrogn words")
        await ask(tab, "right words")
        await tab.locator(".bubble", has_text="right words").wait_for()
        await tab.locator(".question .versions span", has_text="2/2").wait_for()
        await tab.locator(".route .badge").wait_for()
        assert shown(opened) == ["right words", "near answer"]
        await tab.get_by_role("button", name="The version before").click()
        await tab.locator(".bubble", has_text="wrogn words").wait_for()
        await tab.locator(".question .versions span", has_text="1/2").wait_for()


async def test_retrying_keeps_both_answers_and_a_search_opens_the_one_that_was_found() -> None:
    change_settings(places().config_file, "policy", {"privacy": "cloud_ok"})
    async with serving(office(forced="cloud")) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "who says it?")
        await tab.locator(".route .badge.far").wait_for()
        await tab.locator(".retry", has_text="near").click()
        await tab.locator(".route .badge.near").wait_for()
        await tab.locator(".answer .versions span", has_text="2/2").wait_for()
        await tab.click("#new")
        await tab.locator(".welcome").wait_for()
        await tab.keyboard.press("Control+k")
        await tab.keyboard.type("far answer")
        await tab.locator(".conversation small", has_text="far answer").wait_for()
        await tab.keyboard.press("Enter")  # by the keyboard alone
        await tab.locator(".answer .body", has_text="far answer").wait_for()
        await tab.locator(".answer .versions span", has_text="1/2").wait_for()
        await tab.keyboard.press("Control+k")
        await tab.keyboard.press("ArrowDown")
        await playwright.expect(tab.locator(".conversation").first).to_be_focused()


async def test_a_stopped_answer_goes_on() -> None:
    hold = asyncio.Event()
    near = ScriptedEngine(("one ", "two "), hold=hold, hold_before=1)
    async with serving(office(near)) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "count")
        await tab.locator(".answer .body", has_text="one").wait_for()
        await tab.keyboard.press("Escape")
        await tab.get_by_role("button", name="Go on").wait_for()
        hold.set()
        await tab.get_by_role("button", name="Go on").click()
        await tab.locator(".answer .body", has_text="one one two").wait_for()
        await tab.locator(".route .badge.near").wait_for()
        assert await tab.get_by_role("button", name="Go on").count() == 0
        assert shown(opened) == ["count", "one one two "]


async def test_an_answer_that_was_cut_off_at_its_limit_goes_on() -> None:
    near = ScriptedEngine(("one ",), finish=Finish(reason="length"))
    async with serving(office(near)) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "count")
        await tab.get_by_role("button", name="Go on").wait_for()


async def test_what_was_deleted_is_brought_back() -> None:
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "keep me")
        await tab.locator(".route .badge").wait_for()
        await tab.click("#delete")
        assert "keep me" in await tab.locator("#choice-title").inner_text()
        await tab.click("#choice button[value=delete]")
        await tab.locator(".welcome").wait_for()
        assert opened.store.headings() == []
        await tab.locator("#undo button").click()
        await tab.locator(".bubble", has_text="keep me").wait_for()
        assert shown(opened) == ["keep me", "near answer"]


async def test_a_file_is_a_chip_and_the_question_the_title() -> None:
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        note = {"name": "notes.md", "mimeType": "text/plain", "buffer": b"a\nlong\ntext"}
        await tab.set_input_files("#file", note)
        await tab.locator(".chip").wait_for()
        await ask(tab, "What does it say?")
        await tab.locator(".route .badge").wait_for()
        bubble = await tab.locator(".bubble").inner_text()
        assert bubble.split() == ["notes.md", "What", "does", "it", "say?"]
        await tab.locator(".conversation", has_text="What does it say?").wait_for()
        await tab.locator(".file summary").click()
        assert await tab.locator(".file pre").inner_text() == "a\nlong\ntext"
        assert "long" in opened.near.requests[0].messages[-1].content
