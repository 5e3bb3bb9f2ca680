"""Consent to learning on the page: asked once, after a far answer, and changed in the settings."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from edge.assistant.app import build_app
from offload.config.places import places
from offload.config.settings_reading import load
from offload.config.settings_sources import change_settings
from offload.policy.learning.learner import LearningInUse, NearModel
from tests.edge.browser import IN_A_BROWSER, ask, page, ready
from tests.edge.desks import TOKEN, Office, office, serving


@pytest.fixture
def opened(tmp_path: Path) -> Office:
    """A page whose far model always answers, and may be learnt from."""
    change_settings(places().config_file, "policy", {"privacy": "cloud_ok"})
    learner = LearningInUse(tmp_path / "learning", NearModel("near", "0" * 32, "f16"))
    return office(forced="cloud", learner=learner)


def kept() -> str:
    return load(places().config_file).policy.learn


def client(opened: Office) -> httpx.AsyncClient:
    app = build_app(opened.assistant, opened.store, opened.answers, token=TOKEN)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app),
        base_url="http://127.0.0.1:8089",
        headers={"authorization": f"Bearer {TOKEN}"},
    )


class TestServer:
    @pytest.mark.parametrize("reply", ["on", "off"])
    async def test_a_reply_is_kept_and_loads_no_model(self, opened: Office, reply: str) -> None:
        before = opened.assistant.engine
        async with client(opened) as http:
            asked = (await http.get("/api/status")).json()
            assert asked["asks_to_learn"] and asked["learn"] == "ask"
            told = (await http.patch("/api/settings", json={"learn": reply})).json()
            assert not told["asks_to_learn"] and told["learn"] == reply == kept()
        assert opened.assistant.engine is before

    async def test_it_is_not_asked_in_private_nor_where_nothing_can_be_learnt(
        self, opened: Office
    ) -> None:
        async with client(opened) as http:
            private = (await http.patch("/api/settings", json={"private": True})).json()
            assert not private["asks_to_learn"] and private["learn"] == "ask"
        async with client(office(forced="cloud")) as http:
            assert not (await http.get("/api/status")).json()["asks_to_learn"]

    async def test_turned_on_again_it_opens_an_engine_that_learns(self, opened: Office) -> None:
        change_settings(places().config_file, "policy", {"learn": "off"})
        opened = office(forced="cloud")
        before = opened.assistant.engine
        async with client(opened) as http:
            await http.patch("/api/settings", json={"learn": "on"})
        assert opened.assistant.engine is not before and kept() == "on"

    async def test_other_replies_are_refused(self, opened: Office) -> None:
        async with client(opened) as http:
            told = await http.patch("/api/settings", json={"learn": "ask"})
            assert told.status_code == 400 and kept() == "ask"

    async def test_where_the_environment_goes_before_it_is_said_and_nothing_is_kept(
        self, opened: Office, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NEARFAR_POLICY_LEARN", "off")
        async with client(opened) as http:
            told = await http.patch("/api/settings", json={"learn": "on"})
            assert told.status_code == 400 and "NEARFAR_POLICY_LEARN" in told.json()["error"]
        monkeypatch.delenv("NEARFAR_POLICY_LEARN")
        assert kept() == "ask"


class TestPage:
    pytestmark = IN_A_BROWSER

    async def test_it_is_asked_once_after_a_far_answer(self, opened: Office) -> None:
        async with serving(opened) as desk, page() as tab:
            await ready(desk, tab)
            assert await tab.is_hidden("#learn"), "nothing was seen yet that could teach it"
            await ask(tab, "hello?")
            await tab.locator("#learn").wait_for()
            assert "no texts" in await tab.inner_text("#learn")
            await tab.click("#learn-on")
            await tab.locator("#learn").wait_for(state="hidden")
            assert kept() == "on"
            await ask(tab, "and again?")
            await tab.locator(".route .badge.far").nth(1).wait_for()
            assert await tab.is_hidden("#learn")
            await tab.click("#open-settings")
            assert await tab.input_value("#learning") == "on"
            async with tab.expect_response("**/api/settings"):
                await tab.select_option("#learning", "off")
        assert kept() == "off"
