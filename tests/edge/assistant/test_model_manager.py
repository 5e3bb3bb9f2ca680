"""The model manager behind the page: what is listed, found, fetched, stopped, adopted, removed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from edge.models.local_models import own_models, read_aliases
from edge.models.used_models import used_by_path
from offload.config.places import places
from tests.edge.assistant.test_assistant import client
from tests.edge.desks import office
from tests.edge.hubs import DATA, Hub


async def here(http: httpx.AsyncClient) -> dict[str, dict[str, object]]:
    rows = (await http.get("/api/models")).json()["here"]
    return {row["name"]: row for row in rows}


async def pulled(http: httpx.AsyncClient) -> dict[str, object]:
    """Wait for the one download to end, as the page does: it looks again and again."""
    while True:
        (known,) = (await http.get("/api/pulls")).json()
        if known["state"] not in ("running", "stopping"):
            return dict(known)
        await asyncio.sleep(0.01)


async def test_what_is_here_and_what_fits_is_listed() -> None:
    async with client(office()) as http:
        told = (await http.get("/api/models")).json()
        (embedded,) = told["here"]
        assert embedded["used"] and embedded["fits"] and embedded["removes"] == ""
        sizes = {row["name"]: row["size_gb"] for row in told["catalogue"]}
        assert 0.3 < sizes["qwen3:0.6b"] < 0.6 and told["free_bytes"] > 0


async def test_a_model_is_found_fetched_and_removed(there: Hub) -> None:
    async with client(office()) as http:
        assert (await http.get("/api/models/search?q=nothing")).json() == []
        (found,) = (await http.get("/api/models/search?q=tiny")).json()
        assert found == {"id": "me/tiny", "downloads": 1234, "gated": "manual"}
        files = (await http.get("/api/models/files?repo=me/tiny")).json()
        assert [each["size_bytes"] for each in files] == [len(DATA), len(DATA)]
        begun = await http.post("/api/pulls", json={"name": files[0]["name"]})
        assert begun.status_code == 202
        done = await pulled(http)
        assert (done["state"], done["done_bytes"]) == ("done", len(DATA)), done
        assert own_models(places().models)["tiny-Q4_K_M"].read_bytes() == DATA
        assert (await here(http))["tiny-Q4_K_M"]["removes"] == "deletes"
        await http.post("/api/models/remove", json={"name": "tiny-Q4_K_M"})
        assert own_models(places().models) == {}


async def test_a_stopped_download_goes_on_from_where_it_was(there: Hub) -> None:
    there.hold = threading.Event()
    async with client(office()) as http:
        await http.post("/api/pulls", json={"name": "me/tiny"})
        while not (await http.get("/api/pulls")).json()[0]["done_bytes"]:
            await asyncio.sleep(0.01)
        await http.post("/api/pulls/stop", json={"name": "me/tiny"})
        there.hold.set()
        stopped = await pulled(http)
        assert stopped["state"] == "stopped" and own_models(places().models) == {}
        there.hold = None
        await http.post("/api/pulls", json={"name": "me/tiny"})
        assert (await pulled(http))["state"] == "done"
        ranges = [said for path, said, _ in there.asked if "/resolve/" in path]
        assert ranges[0] is None and ranges[1] is not None and ranges[1].startswith("bytes=")
        await http.post("/api/pulls/stop", json={"name": "me/tiny"})
        assert (await http.get("/api/pulls")).json() == []


async def test_a_download_that_fails_says_why_in_the_pages_language(there: Hub) -> None:
    there.lie = True
    async with client(office(), **{"accept-language": "zh"}) as http:
        await http.post("/api/pulls", json={"name": "me/tiny"})
        failed = await pulled(http)
        assert failed["state"] == "failed" and "\u4e0b\u8f7d\u5931\u8d25" in str(failed["error"])
        refused = await http.post("/api/pulls", json={"name": "no name"})
        assert refused.status_code == 400


async def test_a_file_is_adopted_where_it_lies_and_forgotten(tiny_gguf: Path) -> None:
    async with client(office()) as http:
        await http.post("/api/models/adopt", json={"path": str(tiny_gguf), "name": "mine"})
        await http.post("/api/models/adopt", json={"path": str(tiny_gguf)})
        assert read_aliases(places().models) == {"mine": str(tiny_gguf)}
        rows = await here(http)
        assert rows["mine"]["removes"] == rows[str(tiny_gguf)]["removes"] == "forgets"
        for name in ("mine", str(tiny_gguf)):
            await http.post("/api/models/remove", json={"name": name})
        assert read_aliases(places().models) == {} and used_by_path(places().models) == []
        assert tiny_gguf.exists()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all"])
async def test_what_is_no_model_is_not_adopted(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    async with client(office()) as http:
        refused = await http.post("/api/models/adopt", json={"path": str(path), "name": "x"})
        assert refused.status_code == 400 and read_aliases(places().models) == {}


async def test_a_model_in_use_and_one_that_is_not_ours_are_not_removed(tiny_gguf: Path) -> None:
    opened = office()
    folder = places().models
    folder.mkdir(parents=True)
    (folder / "own.gguf").write_bytes(tiny_gguf.read_bytes())
    async with client(opened) as http:
        await http.patch("/api/settings", json={"model": "own"})
        in_use = await http.post("/api/models/remove", json={"name": "own"})
        assert in_use.status_code == 400 and "in use" in in_use.json()["error"]
        not_ours = await http.post("/api/models/remove", json={"name": str(tiny_gguf)})
        assert not_ours.status_code == 400
        assert (folder / "own.gguf").exists() and tiny_gguf.exists()


async def test_offline_nothing_is_asked_of_the_hub(there: Hub) -> None:
    opened = office(offline=True)
    async with client(opened) as http:
        for refused in (
            await http.get("/api/models/search?q=tiny"),
            await http.get("/api/models/files?repo=me/tiny"),
            await http.post("/api/pulls", json={"name": "me/tiny"}),
        ):
            assert refused.status_code == 400 and "offline" in refused.json()["error"]
    assert there.asked == []
