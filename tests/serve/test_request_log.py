"""Log lines as JSON: whose request, how it ended, and nothing of what was said."""

from __future__ import annotations

import json
import logging

import pytest

from serve.options import ServeOptions
from serve.request_log import JsonLines
from tests.offload.scripted import ScriptedEngine
from tests.serve.faces import ASK, CHAT, near

KEY = "k" * 32


async def test_a_request_is_one_line_with_its_id_and_no_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "serve.request_log")
    options = ServeOptions(api_keys=(f"alice:{KEY}",))
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "mine"}
    async with near(ScriptedEngine(), options) as client:
        await client.post(CHAT, json=ASK, headers=headers)
    (record,) = [each for each in caplog.records if each.name == "serve.request_log"]
    line = json.loads(JsonLines().format(record))
    assert line["request_id"] == "mine" and line["status"] == 200 and line["tenant"] == "alice"
    assert line["path"] == CHAT and line["seconds"] >= 0
    assert "count" not in json.dumps(line) and KEY not in json.dumps(line)


def test_an_error_tells_its_kind_alone() -> None:
    try:
        raise ValueError("the secret prompt")
    except ValueError as error:
        info = (ValueError, error, None)
    record = logging.LogRecord("serve", logging.ERROR, "f", 1, "broke", None, info)
    assert json.loads(JsonLines().format(record))["error"] == "ValueError"
    assert "secret" not in JsonLines().format(record)
