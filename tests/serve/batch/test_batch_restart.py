"""A batch goes on where it stopped, however often its server is killed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import openai

from serve.batch.store import BatchStore
from tests.serve.batch.test_batches import begun, ended, lines, read

ROOT = Path(__file__).parents[3]
PROGRAM = """
import asyncio, sys
from pathlib import Path
from offload.config.settings import Settings
from serve.batch.face import face_with_batches
from tests.offload.scripted import ScriptedEngine
async def main(folder):
    engine = ScriptedEngine(script=lambda request: [request.last_text()], pause_s=0.02)
    async with face_with_batches(engine, Settings(), "127.0.0.1:0", folder) as url:
        print(url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main(Path(sys.argv[1])))
"""
NUM = 300


@contextlib.asynccontextmanager
async def killed(folder: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A server that is killed, never stopped, when the block is left."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, str(folder)), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 120)).decode().strip()
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any") as client:
            yield client
    finally:
        process.kill()
        await process.wait()


async def test_a_batch_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    async with killed(tmp_path) as client:
        batch = await begun(client, lines(NUM))
        while batch.request_counts.completed < 40:
            batch = await client.batches.retrieve(batch.id)
    store = BatchStore(tmp_path)
    before = len(store.done_lines(batch.id))
    (kept,) = [document for _, document in store.unfinished()]
    store.close()
    assert 40 <= before < NUM and kept.status == "in_progress"
    async with killed(tmp_path) as client:
        batch = await client.batches.retrieve(batch.id)
        assert batch.request_counts.completed >= before, "what was answered is not asked again"
        batch = await ended(client, batch)
        found = await read(client, batch.output_file_id)
    assert batch.status == "completed" and batch.request_counts.completed == NUM
    said = {key: row["response"]["body"]["choices"][0]["message"] for key, row in found.items()}
    assert {key: each["content"] for key, each in said.items()} == {
        f"q{n}": f"question {n}" for n in range(NUM)
    }


async def test_of_two_servers_over_one_folder_one_runs_batches_and_then_the_other(
    tmp_path: Path,
) -> None:
    async with killed(tmp_path) as second:
        async with killed(tmp_path) as first:
            batch = await begun(first, lines(NUM))
            while batch.request_counts.completed < 10:
                batch = await second.batches.retrieve(batch.id)
        batch = await ended(second, batch)
        found = await read(second, batch.output_file_id)
    assert batch.status == "completed" and len(found) == NUM


async def test_files_can_be_read_by_their_owner_alone(tmp_path: Path) -> None:
    async with killed(tmp_path) as client:
        await ended(client, await begun(client, lines(2)))
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(paths) >= 3 and not [path for path in paths if path.stat().st_mode & 0o077]
    assert not (tmp_path / "files").stat().st_mode & 0o077
