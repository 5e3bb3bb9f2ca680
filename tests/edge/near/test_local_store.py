"""The models of this device as other programs list, fetch, unload and delete them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backbone.errors import CheckpointError
from edge.models.download import DownloadError
from edge.models.local_models import set_alias
from edge.near.local_store import LocalStore
from edge.near.near_service import NearService
from offload.config.places import places
from offload.config.settings import EdgeSettings, Settings
from tests.edge.hubs import DATA, Hub


@pytest.fixture
async def service() -> AsyncIterator[NearService]:
    service = NearService(Settings(), places())
    yield service
    await service.aclose()


async def test_models_are_listed_with_their_aliases_and_damaged_ones_left_out(
    service: NearService,
) -> None:
    set_alias("smol", "embedded", places().models)
    (places().models / "broken.gguf").write_bytes(b"GGUF")
    store = LocalStore(service, places())
    named = {each.name: each for each in store.stored()}
    assert set(named) == {"nearfar-edge", "smol"}
    assert named["smol"].digest == named["nearfar-edge"].digest and len(named["smol"].digest) == 64
    found = store.describe("smol:latest")
    assert found is not None and "messages" in found.template and found.embeddings
    assert store.describe("nothing") is None


async def test_what_is_in_memory_is_told_by_name_and_can_be_unloaded(
    service: NearService, tiny_gguf: Path
) -> None:
    store = LocalStore(service, places())
    elsewhere = service.engine_at(EdgeSettings(model=str(tiny_gguf)))
    async with service.engine_at(EdgeSettings()).in_use(), elsewhere.in_use():
        assert {each.model.name for each in store.in_memory()} == {"nearfar-edge", str(tiny_gguf)}
        assert not await store.unload("embedded"), "it is in use"
        set_alias("smol", "embedded", places().models)
        assert {each.model.name for each in store.in_memory()} == {"smol", str(tiny_gguf)}
    assert await store.unload("smol") and await store.unload(str(tiny_gguf))
    assert store.in_memory() == [] and await store.unload("never there")


async def test_a_pull_tells_how_far_it_is_and_what_failed(service: NearService, there: Hub) -> None:
    store = LocalStore(service, places())
    steps = list(store.pull("me/tiny:Q8_0"))
    assert steps[-1].done_bytes == steps[-1].total_bytes == len(DATA) and len(steps) > 1
    store.delete("tiny-Q8_0")
    with pytest.raises(CheckpointError, match="belongs to nearfar"):
        store.delete("embedded")
    with pytest.raises(DownloadError):
        list(store.pull("me/nothing"))
