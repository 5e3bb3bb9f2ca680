"""The managers of near and far models on the page, in a real Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.models.local_models import own_models
from offload.config.places import places
from offload.config.settings_reading import load
from tests.edge.assistant.test_page import english, serious
from tests.edge.browser import IN_A_BROWSER, page, ready
from tests.edge.desks import office, serving
from tests.edge.hubs import Hub

pytestmark = IN_A_BROWSER


async def test_a_model_is_looked_for_fetched_used_and_removed_by_keyboard(
    there: Hub, tiny_gguf: Path
) -> None:
    there.files = {"tiny-Q4_K_M.gguf": tiny_gguf.read_bytes()}
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await tab.locator("#open-models").press("Enter")
        await tab.locator("#models[open]").wait_for()
        await tab.fill("#hub-words", "tiny")
        await tab.keyboard.press("Enter")
        await tab.get_by_label("Files me/tiny").press("Enter")
        await tab.get_by_label("Fetch me/tiny/tiny-Q4_K_M.gguf").press("Enter")
        await tab.locator("#models-pulls", has_text="here").wait_for()
        use = tab.get_by_label("Use near tiny-Q4_K_M")
        await use.press("Enter")
        await tab.locator("#models-here li", has_text="in use").filter(has_text="tiny").wait_for()
        assert load(places().config_file).edge.model == "tiny-Q4_K_M"
        await tab.locator("#models-here button", has_text="Use near").first.press("Enter")
        await tab.get_by_label("Remove tiny-Q4_K_M").press("Enter")
        await tab.locator("#choice[open] button[value=delete]").press("Enter")
        await tab.locator("#models-here li", has_text="tiny").wait_for(state="detached")
        assert own_models(places().models) == {}


async def test_what_cannot_be_adopted_is_said_and_the_page_stays(tmp_path: Path) -> None:
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await tab.click(".welcome .step >> nth=0")
        await tab.fill("#adopt-path", str(tmp_path / "none.gguf"))
        await tab.keyboard.press("Enter")
        await tab.locator("#models-error:not(:empty)").wait_for()
        assert await tab.locator("#models[open]").count() == 1


async def test_a_far_model_is_added_by_its_address_and_dropped() -> None:
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await tab.click(".welcome .step >> nth=1")
        await tab.fill("#cloud-line", "http://127.0.0.1:9/v1")
        await tab.fill("#cloud-model", "big")
        assert not await tab.locator("#cloud-key").is_visible()
        await tab.click("#cloud-add")
        await tab.locator("#clouds-list", has_text="http://127.0.0.1:9/v1").wait_for()
        assert load(places().config_file).cloud.model == "big"
        await tab.click("#clouds-test")
        await tab.locator("#clouds-list", has_text="nothing answers").wait_for()
        await tab.click("#clouds-list button")
        await tab.click("#choice button[value=drop]")
        await tab.locator("#clouds-list", has_text="None is set up").wait_for()
        assert load(places().config_file).cloud.url == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 390])
async def test_axe_and_a_phone_find_nothing_wrong(scheme: str, width: int, there: Hub) -> None:
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 780}}
    async with serving(office()) as opened, page(bypass_csp=True, **options) as tab:
        await ready(opened, tab)
        for name in ("models", "clouds"):
            if width < 768:
                await tab.click("#open-sidebar")
            await tab.click(f"#open-{name}")
            await tab.locator(f"#{name}[open]").wait_for()
            assert await serious(tab) == []
            wide = await tab.evaluate(f"document.getElementById('{name}').scrollWidth")
            assert wide <= width
            await tab.keyboard.press("Escape")
            if width < 768:
                await tab.click("#shade", position={"x": width - 10, "y": 400})


async def test_they_speak_chinese(there: Hub) -> None:
    async with serving(office()) as opened, page(locale="zh-CN") as tab:
        await ready(opened, tab)
        for name in ("models", "clouds"):
            await tab.click(f"#open-{name}")
            await tab.locator(f"#{name}[open]").wait_for()
            shown = await tab.locator(
                f"#{name} :is(h2, h3, label, button, .hint)"
            ).all_inner_texts()
            assert all(any(c > "\u3400" for c in words) for words in shown if words.strip())
            await tab.keyboard.press("Escape")
        assert await english(tab, but=catalogue()) == []


def catalogue() -> list[str]:
    """What stands in the lists in the words of their makers."""
    from edge.models.catalogue import CATALOGUE
    from offload.link.local_keys import device_keys

    said = {words for each in CATALOGUE for words in (each.name, each.licence, each.about)}
    known = [
        *sorted(said, key=len, reverse=True),
        "127.0.0.1",
        "http",
        "this machine",
        "nearfar-edge",
    ]
    return [*known, device_keys(places().keys).public]
