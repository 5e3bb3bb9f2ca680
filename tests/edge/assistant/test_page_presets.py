"""Presets, pins and the theme on the page, in a real Chromium."""

from __future__ import annotations

from edge.chat.presets import Preset, keep_preset, read_presets
from offload.config.places import places
from offload.config.settings_reading import load
from offload.messages import Privacy
from tests.edge.browser import IN_A_BROWSER, ask, page, ready
from tests.edge.desks import office, serving

pytestmark = IN_A_BROWSER


async def test_a_preset_is_made_used_changed_and_removed() -> None:
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await tab.click("#open-settings")
        await tab.click("#preset-new")
        await tab.fill("#preset-name", "pirate")
        await tab.fill("#preset-system", "You are a pirate.")
        await tab.fill("#preset-temperature", "0.2")
        await tab.fill("#preset-max_tokens", "64")
        await tab.click("#preset-save")
        await tab.locator("#preset").wait_for(state="hidden")
        assert await tab.input_value("#preset-choice") == "pirate"
        assert load(places().config_file).edge.preset == "pirate"
        await tab.keyboard.press("Escape")
        await ask(tab, "hello?")
        await tab.locator(".route .badge.near").wait_for()
        (asked,) = opened.near.requests
        assert [message.content for message in asked.messages] == ["You are a pirate.", "hello?"]
        assert (asked.sampling.temperature, asked.sampling.max_tokens) == (0.2, 64)
        await tab.click("#open-settings")
        await tab.click("#preset-edit")
        await tab.check("#preset-private")
        await tab.click("#preset-save")
        await tab.locator("#preset").wait_for(state="hidden")
        assert read_presets(places().presets)["pirate"].privacy is Privacy.LOCAL_ONLY
        await tab.click("#preset-edit")
        await tab.click("#preset-delete")
        await tab.locator("#preset").wait_for(state="hidden")
        assert read_presets(places().presets) == {}
        assert await tab.input_value("#preset-choice") == ""


async def test_a_preset_that_keeps_all_here_closes_the_link() -> None:
    keep_preset("here", Preset(privacy=Privacy.LOCAL_ONLY), places().presets)
    async with serving(office(forced="cloud")) as opened, page() as tab:
        await ready(opened, tab)
        await tab.click("#open-settings")
        await tab.select_option("#preset-choice", "here")
        await tab.locator("#private[aria-checked=true]").wait_for()
        await tab.keyboard.press("Escape")
        await ask(tab, "hello?")
        await tab.locator(".route .badge.near").wait_for()
        assert opened.far.requests == []


async def test_a_pinned_conversation_stands_before_the_others() -> None:
    opened = office()
    for title in ("first", "second"):
        opened.store.ask(opened.store.begin(title=title), "hello")
    async with serving(opened), page() as tab:
        await ready(opened, tab)
        await tab.locator(".conversation", has_text="first").click()
        await tab.click("#pin")
        await tab.locator("#pin[aria-pressed=true]").wait_for()
        labels = await tab.locator("#list li").all_inner_texts()
        assert labels == ["Pinned", "first", "Today", "second"]
        await tab.click("#pin")
        await tab.locator("#pin[aria-pressed=false]").wait_for()
        assert (await tab.locator("#list li").all_inner_texts())[0] == "Today"


async def test_the_theme_is_kept_over_a_reload() -> None:
    async with serving(office()) as opened, page(color_scheme="light") as tab:
        await ready(opened, tab)
        paper = "getComputedStyle(document.body).backgroundColor"
        light = await tab.evaluate(paper)
        await tab.click("#open-settings")
        await tab.select_option("#theme", "dark")
        dark = await tab.evaluate(paper)
        assert dark != light
        await tab.reload()
        await tab.locator("#status:not(:empty)").wait_for()
        assert await tab.evaluate(paper) == dark
        await tab.click("#open-settings")
        await tab.select_option("#theme", "auto")
        assert await tab.evaluate(paper) == light
