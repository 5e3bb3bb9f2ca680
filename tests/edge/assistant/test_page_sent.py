"""What left stands beside who answered: bytes, that nobody counted them, or that they may have."""

from __future__ import annotations

import pytest

from offload.errors import CloudFailed
from tests.edge.browser import IN_A_BROWSER, ask, page, ready
from tests.edge.desks import office, serving
from tests.offload.scripted import ScriptedEngine

pytestmark = IN_A_BROWSER


@pytest.mark.parametrize(
    ("locale", "told"), [("en-US", "bytes not counted"), ("zh-CN", "字节数未统计")]
)
async def test_bytes_that_nobody_counted_are_said_to_be_so(locale: str, told: str) -> None:
    async with serving(office(forced="cloud")) as opened, page(locale=locale) as tab:
        await ready(opened, tab)
        await ask(tab, "far question")
        await tab.click("#consent button[value=once]")
        await tab.locator(".route .badge.far").wait_for()
        assert await tab.locator(".route .sent").inner_text() == told


async def test_a_cloud_that_failed_is_said_to_have_had_the_text_or_not() -> None:
    error = CloudFailed("the cloud fell over; ask again")
    error.bytes_sent = None
    far = ScriptedEngine(error=error)
    async with serving(office(far=far, forced="cloud")) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "far question")
        await tab.click("#consent button[value=once]")
        await tab.locator(".route .badge.near").wait_for()
        assert await tab.locator(".route .sent").inner_text() == "text may have left"


async def test_of_an_answer_that_stayed_here_nothing_is_said() -> None:
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "near question")
        await tab.locator(".route .badge.near").wait_for()
        assert await tab.locator(".route .sent").count() == 0
