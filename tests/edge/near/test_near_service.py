"""Near models on demand: loaded once for all who ask, by every name, unloaded when idle."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backbone.errors import CheckpointError
from edge.assistant.engine_settings import AssistantEngine, SettingsChange
from edge.models.local_models import set_alias
from edge.models.model_card import card_of
from edge.near.edge_factory import open_edge
from edge.near.factory import RunFlags
from edge.near.near_service import NearService
from edge.near.on_demand import OnDemandEngine, open_pool
from offload.config.places import Places, places
from offload.config.settings import EdgeSettings, Settings
from offload.config.settings_reading import load
from offload.engine import Engine, Tokenizing
from offload.errors import Unsupported
from offload.messages import Delta, Message, ModelCard, Request, Sampling
from offload.pair import EDGE_MODEL
from tests.waiting import until

ASK = Request(
    messages=(Message(role="user", content="What is 17 + 25?"),), sampling=Sampling(max_tokens=8)
)
FLAGS = RunFlags(offline=True, serving=True)


async def said(engine: Engine) -> str:
    items = [item async for item in engine.generate(ASK)]
    return "".join(item.text for item in items if isinstance(item, Delta))


@pytest.fixture
def here(tiny_gguf: Path) -> Places:
    folder = places().models / "me" / "tiny"
    folder.mkdir(parents=True)
    shutil.copy(tiny_gguf, folder / "tiny-q4.gguf")
    set_alias("smol", "tiny-q4", places().models)
    set_alias("mine", str(tiny_gguf), places().models)
    return places()


@pytest.fixture
async def service(here: Places) -> AsyncIterator[NearService]:
    service = NearService(Settings(), here)
    yield service
    await service.aclose()


async def test_a_model_answers_to_alias_file_and_listed_name(
    service: NearService, here: Places
) -> None:
    first = service.open_engine(Settings(), here, FLAGS)
    models = service.by_name(first, FLAGS)
    names = ("smol", "tiny-q4", "me/tiny/tiny-q4", "smol:latest")
    engines = {models.engine_for(name) for name in names}
    assert len(engines) == 1 and None not in engines and first not in engines
    own = {models.engine_for(name) for name in ("embedded", "nearfar-edge", EDGE_MODEL.name)}
    assert own == {first}
    assert models.engine_for("mine") is not None, "what an alias means may lie anywhere"
    assert {"nearfar-edge", "tiny-q4", "smol", "mine"} <= set(models.local_names())
    assert service.pool.loaded == (), "naming loads nothing"


async def test_no_name_reaches_a_file_that_is_not_listed(
    service: NearService, here: Places, tmp_path: Path, tiny_gguf: Path
) -> None:
    elsewhere = shutil.copy(tiny_gguf, tmp_path / "other.gguf")
    models = service.by_name(service.open_engine(Settings(), here, FLAGS), FLAGS)
    for name in (str(elsewhere), "../other.gguf", "/etc/passwd", "nothing", " ", "x" * 5000):
        assert models.engine_for(name) is None
    strict = service.by_name(service.open_engine(Settings(), here, FLAGS), FLAGS, only_first=True)
    assert strict.engine_for("smol") is None and strict.engine_for("embedded") is not None
    assert strict.local_names() == ("nearfar-edge",)


async def test_page_and_api_share_one_copy_and_an_idle_one_is_unloaded(here: Places) -> None:
    settings = Settings(edge=EdgeSettings(keep_alive="0.05"))
    smol = replace(settings, edge=replace(settings.edge, model="smol"))
    service = NearService(settings, here)
    page = service.open_engine(settings, here, FLAGS)
    api = service.by_name(page, FLAGS).engine_for("smol")
    other = service.open_engine(smol, here, FLAGS)
    assert api is not None
    assert await said(page) == "42" == await said(page)
    await said(api)
    await said(other)
    assert len(service.pool.loaded) <= 2
    await until(lambda: not service.pool.loaded)
    assert await said(page) == "42", "it is loaded again when it is asked again"
    await service.aclose()
    assert service.pool.loaded == ()


async def test_one_model_gives_way_where_both_do_not_fit(here: Places) -> None:
    pool = open_pool(Settings(), here, free_bytes=lambda: 0)
    first, second = (
        OnDemandEngine(pool, EdgeSettings(model=name), here) for name in ("embedded", "smol")
    )
    await said(first)
    await said(second)
    assert [Path(key.model).stem for key in pool.loaded] == ["tiny-q4"]
    await pool.aclose()


async def test_a_card_is_known_before_loading_and_is_the_engines_behind_it(here: Places) -> None:
    pool = open_pool(Settings(), here)
    near = OnDemandEngine(pool, EdgeSettings(), here)
    before = near.card()
    assert (before.name, before.vocab_size, pool.loaded) == (card_of(EDGE_MODEL).name, 0, ())
    real = open_edge(Settings(), here)
    assert _file_aside(before) == _file_aside(real.card())
    await real.aclose()
    with pytest.raises(Unsupported):
        near.tokenize("x")
    async with near.in_use():
        assert isinstance(near, Tokenizing) and near.tokenize("x")
        assert near.card().vocab_size > 0
    await pool.aclose()
    assert near.card().vocab_size > 0, "what was learnt stays known"
    with pytest.raises(CheckpointError):
        OnDemandEngine(pool, EdgeSettings(model="nothing"), here)


async def test_a_file_that_is_no_model_is_refused_before_it_takes_the_place_of_one(
    service: NearService, here: Places, tmp_path: Path
) -> None:
    """Kept, it would leave a page that cannot tell its own status, nor be set right."""
    (text := tmp_path / "notes.txt").write_text("no model")
    page = AssistantEngine(Settings(), here, ask=_never, open_engine=service.open_engine)
    before = page.status()
    async with page.lock:
        with pytest.raises(CheckpointError, match="is not a GGUF file"):
            await page.change(SettingsChange(model=str(text)))
    after = page.status()
    assert (after.chosen, after.model) == (before.chosen, before.model)
    assert load(here.config_file).edge.model == Settings().edge.model
    await page.aclose()


async def _never(*_: object) -> Any:
    raise AssertionError("nothing leaves here")


def _file_aside(card: ModelCard) -> ModelCard:
    """Return a card without what only a loaded model knows, and the bytes of its file's head."""
    return msgspec.structs.replace(card, max_model_len=0, vocab_size=0, size_bytes=0)
