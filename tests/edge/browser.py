"""The page in a real Chromium, as far as every test of it goes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge.desks import Office

playwright = pytest.importorskip("playwright.async_api", reason="playwright drives the browser")

CHROMIUM = Path("/usr/bin/chromium")

PATIENCE_MS = 15_000

IN_A_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]


@contextlib.asynccontextmanager
async def page(**options: Any) -> AsyncIterator[Any]:
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        context = await browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        yield await context.new_page()
        await browser.close()


async def ready(opened: Office, tab: Any) -> None:
    await tab.goto(opened.link)
    await tab.locator("#status:not(:empty)").wait_for()


async def ask(tab: Any, text: str) -> None:
    await tab.fill("#question", text)
    await tab.keyboard.press("Enter")
