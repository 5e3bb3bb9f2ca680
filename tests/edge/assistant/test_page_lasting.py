"""An answer on the page outlives reloads, second thoughts, and its server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from offload.config.places import places
from offload.config.settings_sources import change_settings
from offload.egress.outbox import Outbox
from offload.errors import CloudUnreachable
from tests.edge.browser import IN_A_BROWSER, ask, page, ready
from tests.edge.desks import office, serving
from tests.offload.scripted import ScriptedEngine

ROOT = Path(__file__).parents[3]

pytestmark = IN_A_BROWSER


async def test_two_tabs_and_a_reload_follow_one_answer() -> None:
    go_on = asyncio.Event()
    slow = ScriptedEngine(("one ", "two ", "three"), hold=go_on, hold_before=1)
    async with serving(office(slow)) as opened, page() as tab:
        await ready(opened, tab)
        other = await tab.context.new_page()
        await ready(opened, other)
        await ask(tab, "count")
        await other.locator(".conversation", has_text="count").click()
        for each in (tab, other):
            await each.locator(".writing .body", has_text="one").wait_for()
        await tab.reload()
        await tab.locator(".writing .body", has_text="one").wait_for()
        before = await tab.locator(".answer > .row").bounding_box()
        go_on.set()
        for each in (tab, other):
            await each.locator(".answer:not(.writing) .body", has_text="three").wait_for()
        after = await tab.locator(".answer > .row").bounding_box()
        assert before["y"] == pytest.approx(after["y"], abs=4)  # the end makes nothing jump
        await tab.click("#delete")
        await tab.click("#choice button[value=delete]")
        await other.locator(".welcome").wait_for()


class Away(ScriptedEngine):
    """A cloud that is out of reach until it comes back."""

    def come_back(self) -> None:
        self.error = None


async def test_a_better_answer_comes_to_the_open_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    cloud = Away(("better",), error=CloudUnreachable("nobody is there"))
    at_desk = office(far=cloud, forced="cloud")
    change_settings(places().config_file, "policy", {"privacy": "cloud_ok"})
    at_desk.assistant.outbox = Outbox(places().outbox, below=1.1)
    async with serving(at_desk) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "why?")
        await tab.locator(".remark", has_text="could not answer").wait_for()
        assert opened.store.read(opened.store.latest()).turns[1].waiting
        cloud.come_back()
        opened.answers.after()
        await tab.locator(".better summary").click()
        assert "better" in await tab.locator(".better .body").inner_text()
        assert await tab.locator(".answer > .body").inner_text() == "near answer"
        assert not opened.store.read(opened.store.latest()).turns[1].waiting


async def test_killed_while_it_writes_it_keeps_what_it_wrote(
    make_tiny_gguf: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wide enough to be still writing when it is killed.
    model = make_tiny_gguf(tmp_path / "slow.gguf", hidden=768, num_layers=8, context_len=4096)
    monkeypatch.setenv("NEARFAR_EDGE_MODEL", str(model))
    monkeypatch.setenv("NEARFAR_EDGE_TEMPERATURE", "0")  # a drawn token may end the answer
    async with page() as tab:
        server, link = await asyncio.to_thread(_start)
        try:
            await tab.goto(link)
            await tab.locator("#status:not(:empty)").wait_for()
            await ask(tab, "hello")
            await tab.locator(".writing .body p").first.wait_for()
            seen = (await tab.locator(".writing .body").inner_text()).strip()
        finally:
            _end(server, signal.SIGKILL)
        await tab.locator("#notice", has_text="not running").wait_for()
        port = link.split(":")[2].partition("/")[0]
        again, _ = await asyncio.to_thread(_start, port)
        try:  # the page comes back by itself
            await tab.locator(".remark", has_text="cut off").wait_for()
            kept = (await tab.locator(".answer .body").inner_text()).strip()
            # The word that was seen may have been half of one, or the last to be lost.
            less, more = sorted((seen.split()[0], kept.split()[0]), key=len)
            assert less and more.startswith(less)
            assert await tab.locator("#notice").is_hidden()
        finally:
            _end(again, signal.SIGTERM)


def _start(port: str = "0") -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "nearfar", "assistant", "--no-open", "--port", port, "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    return server, str(json.loads(server.stdout.readline())["url"])


def _end(server: subprocess.Popen[str], how: signal.Signals) -> None:
    os.kill(server.pid, how)
    server.wait()
    assert server.stdout is not None
    server.stdout.close()
