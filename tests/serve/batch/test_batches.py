"""Files and batches, asked by OpenAI's own client over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from offload.asker import asker
from offload.config.settings import ServeSettings, Settings
from offload.errors import Overloaded
from offload.messages import Request
from offload.priority import priority
from serve.batch.face import face_with_batches
from serve.batch.routes import PATHS
from tests.offload.scripted import ScriptedEngine

ALICE, BOB = "a" * 32, "b" * 32
KEYS = Settings(serve=ServeSettings(api_keys=f"alice:{ALICE},bob:{BOB}"))
PLAIN = Settings()
CHAT = "/v1/chat/completions"


def line(number: int, *, url: str = CHAT, **body: Any) -> str:
    turns = [{"role": "user", "content": f"question {number}"}]
    asked = {"model": "scripted", "messages": turns, **body}
    return json.dumps({"custom_id": f"q{number}", "method": "POST", "url": url, "body": asked})


def lines(count: int) -> bytes:
    return "\n".join(line(number) for number in range(count)).encode() + b"\n"


@contextlib.asynccontextmanager
async def reached(
    engine: ScriptedEngine, folder: Path, settings: Settings = PLAIN, key: str = "any"
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        face_with_batches(engine, settings, "127.0.0.1:0", folder) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
    ):
        yield client


async def begun(client: openai.AsyncOpenAI, content: bytes, **more: Any) -> Any:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    asked = {"endpoint": CHAT, "completion_window": "24h"} | more
    return await client.batches.create(input_file_id=file.id, **asked)  # type: ignore[arg-type]


async def ended(client: openai.AsyncOpenAI, batch: Any) -> Any:
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        await asyncio.sleep(0.01)
        batch = await client.batches.retrieve(batch.id)
    return batch


async def read(client: openai.AsyncOpenAI, file_id: str) -> dict[str, Any]:
    text = (await client.files.content(file_id)).text
    return {row["custom_id"]: row for row in map(json.loads, text.splitlines())}


async def test_each_request_is_answered_and_told_by_its_own_id(tmp_path: Path) -> None:
    engine = ScriptedEngine(script=lambda request: [request.last_text().upper()])
    async with reached(engine, tmp_path) as client:
        batch = await begun(client, lines(5), metadata={"mine": "yes"})
        assert batch.object == "batch" and batch.metadata == {"mine": "yes"}
        batch = await ended(client, batch)
        assert batch.status == "completed" and batch.error_file_id is None
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (5, 5, 0)
        found = await read(client, batch.output_file_id)
        said = [found[f"q{n}"]["response"]["body"] for n in range(5)]
        assert [each["choices"][0]["message"]["content"] for each in said] == [
            f"QUESTION {n}" for n in range(5)
        ]
        assert [each.id async for each in client.batches.list()] == [batch.id]
        names = {each.filename async for each in client.files.list()}
        assert names == {"in.jsonl", f"{batch.id}_output.jsonl"}


async def test_the_engine_learns_whose_work_it_is_and_that_nobody_reads_it(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def script(request: Request) -> list[str]:
        seen.append((asker(), priority()))
        return ["yes"]

    async with reached(ScriptedEngine(script=script), tmp_path, KEYS, ALICE) as client:
        await ended(client, await begun(client, lines(2)))
        await client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "now"}]
        )
    assert seen[-3:] == [("http:alice", "batch")] * 2 + [("http:alice", "interactive")]


async def test_a_request_that_cannot_be_answered_fails_alone(tmp_path: Path) -> None:
    content = "\n".join([line(0), line(1, max_tokens="many"), line(2)]).encode()
    async with reached(ScriptedEngine(), tmp_path) as client:
        batch = await ended(client, await begun(client, content))
        assert batch.status == "completed"
        assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
        (failed,) = (await read(client, batch.error_file_id)).values()
        assert failed["custom_id"] == "q1" and failed["response"]["status_code"] == 400
        assert set(await read(client, batch.output_file_id)) == {"q0", "q2"}


@pytest.mark.parametrize(
    ("content", "code", "number"),
    [
        (b"", "empty_file", None),
        (b"not json\n", "invalid_json_line", 1),
        (b'{"custom_id": "a"}', "invalid_json_line", 1),
        (f"{line(0)}\n\n{line(0)}".encode(), "duplicate_custom_id", 3),
        (line(0, url="/v1/completions").encode(), "mismatched_url", 1),
        (line(0, stream=True).encode(), "stream_in_batch", 1),
    ],
)
async def test_a_file_that_cannot_be_read_is_told_by_its_lines(
    content: bytes, code: str, number: int | None, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    async with reached(engine, tmp_path) as client:
        batch = await ended(client, await begun(client, content))
    assert batch.status == "failed"
    assert [(each.code, each.line) for each in batch.errors.data] == [(code, number)]
    assert not [each for each in engine.requests if "question" in each.last_text()]


async def test_what_is_over_the_limit_for_now_is_asked_again(tmp_path: Path) -> None:
    refused = 0

    def script(request: Request) -> list[str]:
        nonlocal refused
        if "question" in request.last_text() and refused < 2:
            refused += 1
            raise Overloaded("all places are taken; ask again", retry_after_s=0.0)
        return ["yes"]

    async with reached(ScriptedEngine(script=script), tmp_path) as client:
        batch = await ended(client, await begun(client, lines(1)))
    assert refused == 2 and batch.request_counts.completed == 1


async def test_a_batch_that_is_cancelled_keeps_what_was_answered(tmp_path: Path) -> None:
    hold = asyncio.Event()

    class Held(ScriptedEngine):
        async def generate(self, request: Request) -> Any:
            if request.last_text() != "question 0":
                await hold.wait() if "question" in request.last_text() else None
            async for item in super().generate(request):
                yield item

    async with reached(Held(), tmp_path) as client:
        batch = await begun(client, lines(40))
        while not batch.request_counts.completed:
            batch = await client.batches.retrieve(batch.id)
        await client.batches.cancel(batch.id)
        batch = await ended(client, batch)
        assert batch.status == "cancelled" and batch.request_counts.completed == 1
        assert set(await read(client, batch.output_file_id)) == {"q0"}
        left = await read(client, batch.error_file_id)
        assert set(left) == {f"q{n}" for n in range(1, 40)}
        assert left["q5"]["error"]["code"] == "batch_cancelled"


async def test_a_file_that_a_batch_reads_is_not_deleted_under_it(tmp_path: Path) -> None:
    hold = asyncio.Event()
    engine = ScriptedEngine(hold=hold)
    async with reached(engine, tmp_path, Settings()) as client:
        batch = await begun(client, lines(1))
        with pytest.raises(openai.ConflictError, match="cancel it first"):
            await client.files.delete(batch.input_file_id)
        hold.set()
        batch = await ended(client, batch)
        assert (await client.files.delete(batch.input_file_id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(batch.input_file_id)
    assert not (tmp_path / "files" / f"{batch.input_file_id}.jsonl").exists()


async def test_nobody_sees_the_files_and_batches_of_another_key(tmp_path: Path) -> None:
    async with reached(ScriptedEngine(), tmp_path, KEYS, ALICE) as alice:
        batch = await ended(alice, await begun(alice, lines(1)))
        bob = alice.with_options(api_key=BOB)
        assert [each.id async for each in bob.files.list()] == []
        assert [each.id async for each in bob.batches.list()] == []
        for asking in (
            bob.files.content(batch.output_file_id),
            bob.files.delete(batch.output_file_id),
            bob.batches.retrieve(batch.id),
            bob.batches.cancel(batch.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await asking
        with pytest.raises(openai.BadRequestError, match="no input_file"):
            await bob.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            )


@contextlib.asynccontextmanager
async def bare(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        face_with_batches(ScriptedEngine(), PLAIN, "127.0.0.1:0", folder) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        yield client


async def test_a_page_may_not_send_files_unasked_and_forms_have_bounds(tmp_path: Path) -> None:
    async with bare(tmp_path) as client:
        form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": b"{}"}}
        page = await client.post("/v1/files", headers={"origin": "https://bad.example"}, **form)
        assert page.status_code == 403
        plain = await client.post("/v1/files", content=b"{}")
        assert plain.status_code == 415
        other = await client.post("/v1/files", data={"purpose": "x"}, files={"file": b"{}"})
        assert other.status_code == 400 and "purpose must be batch" in other.text
        many = await client.get("/v1/files", params={"limit": "1000"})
        assert many.status_code == 400
    assert not list((tmp_path / "files").glob("*"))


@pytest.mark.parametrize("word", ["../../etc/passwd", "..%2F..%2Fetc%2Fpasswd", "file-1%00"])
async def test_no_id_leads_out_of_the_folder(word: str, tmp_path: Path) -> None:
    async with bare(tmp_path) as client:
        assert (await client.get(f"/v1/files/{word}/content")).status_code == 404


async def test_the_openapi_document_draws_files_and_batches(tmp_path: Path) -> None:
    async with (
        face_with_batches(ScriptedEngine(), PLAIN, "127.0.0.1:0", tmp_path) as url,
        httpx.AsyncClient() as client,
    ):
        document = (await client.get(f"{url}/openapi.json")).json()
    found = {
        (method, path)
        for path, methods in document["paths"].items()
        for method in methods
        if "/v1/files" in path or "/v1/batches" in path
    }
    assert found == {(each.method.lower(), each.path) for each in PATHS} and len(found) == 9
    schemas = document["components"]["schemas"]
    for part in json.dumps(document).split('"#/components/schemas/')[1:]:
        assert part.split('"')[0] in schemas
    upload = document["paths"]["/v1/files"]["post"]["requestBody"]["content"]
    assert set(upload) == {"multipart/form-data"}
    (parameter,) = document["paths"]["/v1/batches/{batch}"]["get"]["parameters"]
    assert parameter["name"] == "batch" and {"BatchBody", "BatchReply"} <= set(schemas)
