"""The page in a real Chromium: asked, read, stopped, searched, locked, broken and accessible."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from offload.config.places import places
from offload.config.settings_sources import change_settings
from offload.errors import CloudFailed
from tests.edge.browser import IN_A_BROWSER, PATIENCE_MS, ask, page, ready
from tests.edge.desks import office, serving
from tests.offload.scripted import ScriptedEngine

AXE = Path(__file__).parent / "vendor" / "axe.min.js"
ROOT = Path(__file__).parents[3]

pytestmark = IN_A_BROWSER

HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\n\n"
    "[click](javascript:document.title='owned') ![p](http://192.0.2.1/track.png)\n\n"
    "```html\n<b onclick=x>\n```\n"
)


async def test_a_question_is_answered_with_its_reason_and_outlives_a_reload() -> None:
    elsewhere: list[str] = []
    said = ("Hello **there**.\n\n", "```python\nx = 1\n```")
    async with serving(office(said)) as opened, page() as tab:
        tab.on("request", lambda r: elsewhere.append(r.url))
        await ready(opened, tab)
        assert "token" not in tab.url
        await ask(tab, "Greet me")
        await tab.locator(".route .badge.near").wait_for()
        assert await tab.locator(".body strong").inner_text() == "there"
        assert await tab.locator(".code code").inner_text() == "x = 1"
        await tab.locator(".route .badge").click()
        assert "nothing sent" in await tab.locator(".route p").inner_text()
        await tab.reload()  # the address knows which conversation was open
        await tab.locator(".route .badge.near").wait_for()
        await tab.click("#new")
        await tab.locator(".welcome").wait_for()
        await tab.go_back()
        await tab.locator(".bubble", has_text="Greet me").wait_for()
    assert all(url.startswith((opened.url, "blob:")) for url in elsewhere)


async def test_whatever_a_model_writes_stays_text() -> None:
    hostile: list[str] = []
    async with serving(office((HOSTILE,))) as opened, page() as tab:
        tab.on("request", lambda r: hostile.append(r.url))
        await ready(opened, tab)
        await ask(tab, "Attack me")
        await tab.locator(".route .badge.near").wait_for()
        assert "owned" not in await tab.title()
        assert await tab.locator(".body img, .body script").count() == 0
        assert await tab.locator(".body a[href^='javascript:']").count() == 0
        assert "<script>" in await tab.locator(".body").inner_text()
    assert not [url for url in hostile if "192.0.2.1" in url]


async def test_thoughts_are_folded_and_open_where_the_reader_wants_them() -> None:
    said = ("<think>", "\nLet me <b>see</b>.\n", "</think>", "\n\n", "It **is** 4.")
    async with serving(office(said)) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "2 + 2?")
        await tab.locator(".route .badge.near").wait_for()
        for _ in range(2):
            assert await tab.locator(".body strong").inner_text() == "is"
            assert not await tab.locator(".thoughts p").is_visible()
            await tab.locator(".thoughts summary").click()
            assert await tab.locator(".thoughts p").inner_text() == "Let me <b>see</b>."
            assert "<think>" not in await tab.locator(".body").inner_text()
            await tab.reload()
            await tab.locator(".route .badge.near").wait_for()


async def test_how_long_was_thought_is_told_to_who_watched() -> None:
    hold = asyncio.Event()
    said = ("<think>\nLet me", " see.\n</think>\n\nIt is 4.")
    async with serving(office(ScriptedEngine(said, hold=hold))) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "2 + 2?")
        await tab.locator(".thoughts summary", has_text="thinking").wait_for()
        hold.set()
        await tab.locator(
            ".thoughts summary", has_text=re.compile(r"^Thought for \d+ s$")
        ).wait_for()
        await tab.locator(".route .badge.near").wait_for()
        await tab.reload()
        await tab.locator(".thoughts summary", has_text="What was thought first").wait_for()


async def test_an_answer_that_ran_in_circles_is_cut_and_said_to_be() -> None:
    circles = ScriptedEngine(("Once upon a time ", *["there was a king and "] * 200))
    async with serving(office(circles)) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "a story")
        await tab.locator(".remark", has_text="it ran in circles and was cut").wait_for()
        assert await tab.locator(".body").inner_text() == "Once upon a time there was a king and"
        assert await tab.locator(".withdrawn").count() == 0
        assert await tab.locator("#status", has_text="tokens/s").count() == 1
        await tab.reload()
        await tab.locator(".remark", has_text="it ran in circles").wait_for()


async def test_how_far_the_far_model_has_read_is_told() -> None:
    hold = asyncio.Event()
    far = ScriptedEngine(("far ", "answer"), hold=hold, hold_before=0, reads=[(512, 3000, "cloud")])
    async with serving(office(far=far, forced="cloud")) as opened, page() as tab:
        change_settings(places().config_file, "policy", {"privacy": "cloud_ok"})
        await ready(opened, tab)
        await ask(tab, "a long question")
        await tab.locator(".badge.far", has_text="reading 512 of 3,000 tokens").wait_for()
        hold.set()
        await tab.locator(".route .badge.far").wait_for()


async def test_consent_retry_and_the_private_switch() -> None:
    async with serving(office(forced="cloud")) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "far question")
        await tab.locator("#consent[open]").wait_for()
        assert opened.far.requests == []
        await tab.click("#consent button[value=once]")
        await tab.locator(".route .badge.far").wait_for()
        await tab.locator(".retry", has_text="near").click()
        await tab.locator(".route .badge.near").wait_for()
        assert len(opened.far.requests) == 1
        await tab.click("#private")
        await tab.locator("#private[aria-checked=true]").wait_for()
        await ask(tab, "a secret")
        await tab.locator(".route .badge").nth(1).wait_for()
        assert await tab.locator(".retry", has_text="cloud").count() == 0
        assert len(opened.far.requests) == 1


async def test_escape_stops_and_the_keyboard_is_enough() -> None:
    endless = ScriptedEngine(("one ", "two"), hold=asyncio.Event(), hold_before=1)
    async with serving(office(endless)) as opened, page() as tab:
        await ready(opened, tab)
        await tab.keyboard.type("first line")
        await tab.keyboard.press("Shift+Enter")
        await tab.keyboard.type("second")
        await tab.keyboard.press("Enter")
        await tab.locator(".answer .body", has_text="one").wait_for()
        await tab.keyboard.press("Escape")
        await tab.locator(".remark", has_text="stopped").wait_for()
        assert await tab.locator(".bubble").inner_text() == "first line\nsecond"
        await tab.keyboard.press("Alt+n")
        await tab.locator(".welcome").wait_for()
        await tab.keyboard.press("Control+k")
        await tab.keyboard.type("line")
        await tab.locator(".conversation small", has_text="second").wait_for()


async def test_a_conversation_is_renamed_and_deleted() -> None:
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "name me")
        await tab.locator(".route .badge").wait_for()
        await tab.click("#rename")
        await tab.fill("#choice-text", "A better name")
        await tab.keyboard.press("Enter")
        await tab.locator(".conversation", has_text="A better name").wait_for()
        async with tab.expect_download() as saved:
            await tab.click("#export")
            await tab.click("#choice button[value=markdown]")
        assert (await saved.value).suggested_filename == "A-better-name.md"
        await tab.click("#delete")
        await tab.click("#choice button[value=delete]")
        await tab.locator(".welcome").wait_for()
        assert opened.store.headings() == []


async def test_without_the_token_nothing_is_told() -> None:
    async with serving(office()) as opened, page() as tab:
        await tab.goto(opened.url)
        await tab.locator("#notice", has_text="printed").wait_for()


async def test_the_page_opens_while_its_server_is_gone_and_comes_back() -> None:
    first = office()
    async with page() as tab:
        async with serving(first) as opened:
            await ready(opened, tab)
            await ask(tab, "before")
            await tab.locator(".route .badge").wait_for()
            # The worker has kept the page when it controls it.
            await tab.reload()
            await tab.locator("#status:not(:empty)").wait_for()
            await asyncio.wait_for(_worker(tab), PATIENCE_MS / 1000)
        await tab.reload()
        await tab.locator("#notice", has_text="not running").wait_for()
        assert await tab.locator(".welcome").is_visible()
        port = int(opened.url.rpartition(":")[2])
        async with serving(office(), port=port):
            await tab.locator(".conversation", has_text="before").wait_for()


async def _worker(tab: Any) -> None:
    if not tab.context.service_workers:
        await tab.context.wait_for_event("serviceworker")


async def test_it_speaks_chinese_and_leaves_no_english() -> None:
    failing = ScriptedEngine(("far ",), error=CloudFailed("nobody knows why; see its log"))
    opened_office = office(far=failing, forced="cloud")
    change_settings(places().config_file, "policy", {"privacy": "cloud_ok"})
    async with serving(opened_office) as opened, page(locale="zh-CN") as tab:
        await ready(opened, tab)
        assert await tab.locator("html").get_attribute("lang") == "zh"
        assert await english(tab) == []
        await ask(tab, "\u60a8\u597d")
        await tab.locator(".remark").wait_for()
        told = await tab.locator(".remark").inner_text()
        assert re.search("[\u4e00-\u9fff]", told) and "nobody knows why" in told
        await tab.locator(".route summary").click()
        assert await english(tab, but=("near answer", "nobody knows why; see its log")) == []
        await tab.locator(".retry").first.click()
        await tab.locator(".versions").wait_for()
        await tab.locator(".edit").click(force=True)
        assert await english(tab, but=("near answer", "nobody knows why; see its log")) == []
        await tab.keyboard.press("Escape")
        await tab.locator(".versions button:not(:disabled)").click()
        await tab.locator(".remark").wait_for()
        await tab.click("#open-settings")
        assert await english(tab, but=("near answer", "nobody knows why; see its log")) == []
        await tab.select_option("#language", "en")
        await tab.click("#settings button[value=close]")
        await tab.locator(".remark", has_text="the far model could not answer").wait_for()
        assert await tab.locator("#settings-title").inner_text() == "Settings"


# What people write and what machines are called stays as it is.
_NAMES = ("nearfar link invite", "nearfar policy forget", "nearfar", "embedded", "scripted")
_NAMES += ("tcp://", "https://", "HTTP", "OpenAI", "API", "Hub", "GGUF")


async def english(tab: Any, but: Sequence[str] = ()) -> list[str]:
    """Return the words on the page, or in its labels, that are English."""
    shown = await tab.evaluate(
        """() => [...document.querySelectorAll("body *")].flatMap((each) => [
            ...[...each.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data),
            ...["aria-label", "title", "placeholder"].map((name) => each.getAttribute(name) ?? ""),
        ]).map((words) => words.trim()).filter((words) => words)"""
    )
    examples = await tab.locator(".example, kbd, option").all_inner_texts()
    kept = {each.strip() for each in examples}
    shown = [each for each in shown if each not in kept]
    for words in (*but, *_NAMES):
        shown = [each.replace(words, "") for each in shown]
    return [each for each in shown if re.search(r"[A-Za-z]{3,}", each)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 390])
async def test_axe_finds_nothing_serious(scheme: str, width: int) -> None:
    text = (
        "# Head\n\n- one\n- `two`\n\n```python\nx = 1  # c\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    )
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 780}}
    # The page's own policy forbids the injected checker, rightly.
    async with serving(office((text,))) as opened, page(bypass_csp=True, **options) as tab:
        await ready(opened, tab)
        assert await serious(tab) == []
        await ask(tab, "Show me")
        await tab.locator(".route .badge").wait_for()
        await tab.locator(".route .badge").click()
        assert await serious(tab) == []
        await tab.locator(".retry").first.click()
        await tab.locator(".versions").wait_for()
        await tab.locator(".question").hover()
        await tab.locator(".edit").click()
        assert await serious(tab) == []
        await tab.keyboard.press("Escape")
        status = tab.locator("#status")
        assert await status.evaluate("(line) => line.scrollWidth <= line.clientWidth")
        if width < 768:
            await tab.click("#open-sidebar")
        await tab.click("#open-settings")
        assert await serious(tab) == []
        await tab.click("#preset-new")
        assert await serious(tab) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious_where_a_text_leaves(scheme: str) -> None:
    far = ScriptedEngine(("dear [EMAIL_1]",))
    opened = office(far=far, forced="cloud")
    async with serving(opened), page(bypass_csp=True, color_scheme=scheme) as tab:
        await ready(opened, tab)
        for question in ("mail bob@example.com", "and amy@example.com"):
            await ask(tab, question)
            await tab.locator("#consent[open]").wait_for()
            assert await serious(tab) == []
            await tab.click("#consent button[value=once]")
            await tab.locator("#consent").wait_for(state="hidden")
            await tab.locator(".route .badge.far").last.wait_for()
        assert await serious(tab) == []
        await tab.click("#open-ledger")
        await tab.locator("#ledger[open]").wait_for()
        assert await serious(tab) == []


async def serious(tab: Any) -> list[str]:
    await tab.evaluate(AXE.read_text())
    found = await tab.evaluate("axe.run()")
    return [
        f"{each['id']}: {each['nodes'][0]['html']}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


async def test_how_far_a_long_prompt_has_been_read_is_shown_also_after_a_reload() -> None:
    hold = asyncio.Event()
    near = ScriptedEngine(("done",), reads=((0, 5000), (512, 5000)), hold=hold, hold_before=0)
    async with serving(office(near)) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "A long one")
        await tab.locator(".badge", has_text="reading 512 of 5,000 tokens").wait_for()
        await tab.reload()
        await tab.locator(".badge", has_text="reading 512 of 5,000 tokens").wait_for()
        hold.set()
        await tab.locator(".route .badge.near").wait_for()
