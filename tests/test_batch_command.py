"""`nearfar cloud batch`: a file is answered, and a second start waits for the same job."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from cloud.batch_job import BatchOptions, BatchOutcome, run_batch
from offload.config.settings import Settings
from offload.errors import CloudFailed, CloudUnreachable, SettingsError
from offload.messages import Request
from serve.batch.face import face_with_batches
from tests.offload.scripted import ScriptedEngine
from tests.serve.batch.test_batches import line, lines


def script(request: Request) -> list[str]:
    return [request.last_text()]


async def ran(file: Path, url: str, told: list[str] | None = None) -> BatchOutcome:
    tell = (told if told is not None else []).append
    options = BatchOptions(base_url=f"{url}/v1")
    return await asyncio.to_thread(run_batch, file, options, tell=tell, pause=lambda _: None)


async def test_a_file_is_answered_once_however_often_it_is_sent(tmp_path: Path) -> None:
    file, engine = tmp_path / "in.jsonl", ScriptedEngine(script=script)
    file.write_bytes(lines(3) + line(3, max_tokens="many").encode())
    told: list[str] = []
    async with face_with_batches(engine, Settings(), "127.0.0.1:0", tmp_path / "kept") as url:
        done = await ran(file, url, told)
        asked = len(engine.requests)
        again = await ran(file, url)
    assert done == again and len(engine.requests) == asked
    assert (done.answered, done.failed) == (3, 1) and done.output == tmp_path / "in.output.jsonl"
    rows = [json.loads(row) for row in done.output.read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == ["q0", "q1", "q2"]
    errors = (tmp_path / "in.output.errors.jsonl").read_text()
    assert json.loads(errors)["response"]["status_code"] == 400
    assert all(each.startswith("batch_") for each in told)


async def test_a_job_goes_on_at_an_endpoint_that_was_started_again(tmp_path: Path) -> None:
    file, hold = tmp_path / "in.jsonl", asyncio.Event()
    file.write_bytes(lines(3))
    held = ScriptedEngine(script=script, hold=hold, hold_before=0)
    async with face_with_batches(held, Settings(), "127.0.0.1:0", tmp_path / "kept") as url:
        waiting = asyncio.create_task(ran(file, url))
        await held.until(lambda: any("question" in each.last_text() for each in held.requests))
    assert not waiting.done(), "an endpoint that is gone is waited for"
    address = url.removeprefix("http://")
    engine = ScriptedEngine(script=script)
    async with face_with_batches(engine, Settings(), address, tmp_path / "kept"):
        assert (await waiting).answered == 3


@pytest.mark.parametrize("content", ["", "not json", '{"custom_id": "1"}'])
def test_what_is_no_batch_file_is_one_line(content: str, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(content)
    with pytest.raises(SettingsError, match="write one request on each line"):
        run_batch(file, BatchOptions())
    with pytest.raises(SettingsError, match="cannot be read"):
        run_batch(tmp_path / "none.jsonl", BatchOptions())


async def test_an_endpoint_that_is_not_there_and_a_file_that_fails_are_one_line(
    tmp_path: Path,
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(f"{line(0)}\n{line(0)}")
    with pytest.raises(CloudUnreachable, match="nothing answers at"):
        await ran(file, "http://127.0.0.1:9")
    async with face_with_batches(
        ScriptedEngine(), Settings(), "127.0.0.1:0", tmp_path / "kept"
    ) as url:
        with pytest.raises(CloudFailed, match="is failed \\(line 2: this custom_id"):
            await ran(file, url)
