"""Pages in browsers: none may ask, but those of the origins that a person has named."""

from __future__ import annotations

import pytest

from offload.errors import SettingsError
from serve.options import ServeOptions
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, near

PAGE = "https://chat.example.org"
ASKING = {"origin": PAGE, "access-control-request-method": "POST"}
KEY = "a-key-of-sixteen-characters"


async def test_no_page_may_ask_by_default() -> None:
    async with near(ScriptedEngine()) as client:
        before = await client.options(CHAT, headers=ASKING)
        answer = await client.post(CHAT, json=ASK, headers={"origin": PAGE})
    assert before.status_code >= 400
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("keys", [(), (KEY,)])
async def test_a_page_of_a_named_origin_may_ask_with_its_key(keys: tuple[str, ...]) -> None:
    options = ServeOptions(origins=(PAGE,), api_keys=keys)
    headers = ASKING | {"access-control-request-headers": "authorization, content-type"}
    async with near(ScriptedEngine(), options) as client:
        before = await client.options(CHAT, headers=headers)
        asked = {"origin": PAGE, "authorization": f"Bearer {KEY}"}
        answer = await client.post(CHAT, json=ASK, headers=asked)
        refused = await client.post(CHAT, json=ASK, headers={"origin": PAGE})
        other = await client.options(CHAT, headers=headers | {"origin": "https://evil.example"})
    assert before.status_code == 200 and before.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in before.headers["access-control-allow-headers"]
    assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == PAGE
    assert "x-nearfar-served-by" in answer.headers["access-control-expose-headers"]
    assert refused.status_code == (401 if keys else 200)
    assert refused.headers["access-control-allow-origin"] == PAGE, "the page can read why"
    assert other.status_code == 400 and "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("origin", ["chat.example.org", "https://a.org/", "https://*.a.org", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"serve\.origins"):
        ServeOptions(origins=(origin,))
