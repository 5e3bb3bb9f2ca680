"""Pictures on the page, and conversations taken over by it, in a real Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.edge.assistant.test_page import serious
from tests.edge.browser import IN_A_BROWSER, page, ready
from tests.edge.desks import office, serving
from tests.offload.hybrid.test_pictures_asked import Seer
from tests.offload.test_pictures import SECRET, png

pytestmark = IN_A_BROWSER

DRAW = """async (size) => {
    const canvas = new OffscreenCanvas(size, size / 2);
    canvas.getContext("2d").fillRect(0, 0, size, size);
    const blob = await canvas.convertToBlob({ type: "image/jpeg" });
    const data = new DataTransfer();
    data.items.add(new File([blob], "photo.jpg", { type: "image/jpeg" }));
    const box = document.getElementById("question");
    box.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
}"""


async def test_a_picture_is_pasted_asked_about_and_shown_again() -> None:
    opened = office(far=Seer(("a cat",)), forced="cloud")
    async with serving(opened), page(bypass_csp=True) as tab:
        await ready(opened, tab)
        await tab.evaluate(DRAW, 3000)
        await tab.locator(".chip .picture").wait_for()
        await tab.click("#send")
        await tab.locator("#consent[open]").wait_for()
        assert "1 pictures go with it" in await tab.locator("#consent-facts").inner_text()
        await tab.click("#consent button[value=once]")
        await tab.locator(".route .badge.far").wait_for()
        (shown,) = opened.far.requests[0].messages[0].pictures
        assert shown.media_type == "image/jpeg" and len(shown.data) < 700_000
        await tab.reload()
        await tab.locator(".bubble .picture").wait_for()
        wide = "document.querySelector('.bubble .picture').naturalWidth"
        await tab.wait_for_function(f"{wide} > 0")
        assert await tab.evaluate(wide) == 1600
        assert await serious(tab) == []


async def test_a_picture_goes_along_when_its_question_is_changed_and_can_be_taken_off(
    tmp_path: Path,
) -> None:
    path = tmp_path / "plain.png"
    path.write_bytes(png())
    opened = office(far=Seer(("a cat",)), forced="cloud")
    async with serving(opened), page() as tab:
        await ready(opened, tab)
        await tab.set_input_files("#file", [str(path), str(path)])
        await tab.locator(".chip .picture").nth(1).wait_for()
        await tab.locator(".chip").first.click()
        await tab.fill("#question", "what?")
        await tab.keyboard.press("Enter")
        await tab.click("#consent button[value=conversation]")
        await tab.locator(".route .badge.far").wait_for()
        await tab.locator(".edit").click(force=True)
        await tab.locator(".chip .picture").wait_for()
        await tab.fill("#question", "what else?")
        await tab.keyboard.press("Enter")
        await tab.locator(".versions").wait_for()
        await opened.far.until(lambda: len(opened.far.requests) == 2)
        assert [len(each.messages[0].pictures) for each in opened.far.requests] == [1, 1]
        assert all(SECRET not in each.messages[0].pictures[0].data for each in opened.far.requests)


async def test_conversations_are_taken_over_and_all_taken_out(tmp_path: Path) -> None:
    said = {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["hello"]}}
    tree: dict[str, Any] = {"title": "Old talk", "id": "1", "mapping": {"q": {"message": said}}}
    path = tmp_path / "conversations.json"
    path.write_text(json.dumps([tree]))
    async with serving(office()) as opened, page() as tab:
        await ready(opened, tab)
        await tab.click("#open-settings")
        await tab.set_input_files("#import-file", str(path))
        await tab.locator("#transfer-told", has_text="1 conversations were taken over").wait_for()
        async with tab.expect_download() as coming:
            await tab.click("#export-all")
        kept = await (await coming.value).path()
        (whole,) = json.loads(Path(kept).read_text())
        assert whole["heading"]["title"] == "Old talk"
        await tab.keyboard.press("Escape")
        await tab.locator(".conversation", has_text="Old talk").wait_for()
