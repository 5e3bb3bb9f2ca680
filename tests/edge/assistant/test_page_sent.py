"""What left stands beside who answered: bytes, that nobody counted them, or that they may have."""

from __future__ import annotations

import pytest

from offload.config.places import places
from offload.config.settings_sources import change_settings
from offload.egress.ledger.entries import Departure, DepartureOutcome
from offload.egress.ledger.ledger import Ledger
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


SAID = "Mail bob@example.com, then bob@example.com again, from 10.0.0.7"


async def test_who_is_asked_sees_the_text_as_it_would_leave_and_what_left_is_listed() -> None:
    change_settings(places().config_file, "privacy", {"ip": "ask"})
    far = ScriptedEngine(("dear [EMAIL_1]",))
    async with serving(office(far=far, forced="cloud")) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, SAID)
        await tab.locator("#consent[open]").wait_for()
        assert await tab.locator("#consent mark").all_inner_texts() == ["[EMAIL_1]", "[EMAIL_1]"]
        shown = await tab.locator("#consent-leaves p").evaluate(
            "p => [...p.childNodes].map((n) => n.firstChild?.textContent ?? n.textContent).join('')"
        )
        facts = await tab.locator("#consent-facts").inner_text()
        assert facts == "E-mail addresses: 2 of 2 replaced. IP addresses: 0 of 1 replaced."
        await tab.click("#consent button[value=once]")
        await tab.locator(".route .sent", has_text="1 replaced").wait_for()
        assert [request.last_text() for request in far.requests] == [shown]
        assert "bob@example.com" in await tab.locator(".answer .body").inner_text()


async def test_a_question_is_changed_before_it_leaves() -> None:
    far = ScriptedEngine(("far",))
    async with serving(office(far=far, forced="cloud")) as opened, page() as tab:
        await ready(opened, tab)
        await ask(tab, "the first words")
        await tab.locator("#consent[open]").wait_for()
        await tab.click("#consent button[value=edit]")
        await tab.locator("#composer.editing").wait_for()
        assert await tab.input_value("#question") == "the first words" and not far.requests
        await ask(tab, "other words")
        await tab.click("#consent button[value=conversation]")
        await tab.locator(".route .badge.far").wait_for()
        assert await tab.locator(".bubble").all_inner_texts() == ["other words"]
        assert [request.last_text() for request in far.requests] == ["other words"]


@pytest.mark.parametrize(
    ("locale", "replaced", "nothing"),
    [("en-US", "E-mail addresses: 2 of 2", "Nothing was found"), ("zh-CN", "电子邮件地址", "没有")],
)
async def test_the_ledger_is_found_filtered_and_leads_to_the_conversation(
    locale: str, replaced: str, nothing: str
) -> None:
    ledger = Ledger(places().ledger)
    opened = office()
    talk = opened.store.begin(title="Plans for the summer")
    for number, found in enumerate(({}, {"email redact": 2})):
        departure = Departure(
            request_id=f"r{number}",
            left_at=1.7e9,
            endpoint=f"tcp://cloud:{number}",
            why="unsure",
            privacy="ask",
            num_bytes=9,
            digest="d",
            found=found,
            conversation=talk if found else "gone",
        )
        ledger.leaving(departure)
        ledger.returned(departure.key, DepartureOutcome(state="answered", bytes_sent=700))
    ledger.close()
    async with serving(opened), page(locale=locale) as tab:
        await ready(opened, tab)
        await tab.click("#open-ledger")
        rows = tab.locator("#ledger-list li")
        await rows.nth(1).wait_for()
        assert await rows.count() == 2 and "1,400" in await tab.inner_text("#ledger-totals")
        await tab.select_option("#ledger-kind", "replaced")
        await rows.nth(1).wait_for(state="detached")
        assert replaced in await rows.nth(0).inner_text()
        await tab.fill("#ledger-find", "cloud:0")
        await rows.filter(has_text=nothing).wait_for()
        await tab.fill("#ledger-find", "summer")
        await rows.locator("button").click()
        await tab.locator("#title", has_text="Plans for the summer").wait_for()
        assert not await tab.locator("#ledger").is_visible()
