"""Models on a pool: loaded when asked for, put away in order, versions tried and taken back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from backbone.errors import CheckpointError
from cloud.fleet.model_pool import SERVE_FILE, ModelPool, served_versions, version_for, versions_of
from offload.errors import Overloaded, RequestError, SettingsError
from offload.messages import Delta, Request
from tests.offload.scripted import ScriptedEngine


def put(root: Path, *places: str) -> Path:
    for place in places:
        (root / place).mkdir(parents=True)
        (root / place / "config.json").write_text("{}")
    return root


def say(root: Path, name: str, **said: object) -> None:
    (root / name / SERVE_FILE).write_text(json.dumps(said))


class Library:
    """Opens engines that say their folder, and notes what was opened and closed."""

    def __init__(self, root: Path, hold: asyncio.Event | None = None) -> None:
        self.root, self._hold, self.log = root, hold, list[str]()

    def open(self, folder: Path) -> ScriptedEngine:
        name = str(folder.relative_to(self.root))
        self.log.append(f"+{name}")
        engine = ScriptedEngine([name, "."], hold=self._hold)

        async def aclose() -> None:
            self.log.append(f"-{name}")

        engine.aclose = aclose  # type: ignore[method-assign]
        return engine


async def who(pool: ModelPool, model: str = "", session: str | None = None) -> str:
    request = Request(prompt="x", model=model, session=session)
    items = [item async for item in pool.generate(request)]
    assert isinstance(items[0], Delta)
    return items[0].text


async def test_the_longest_unasked_is_put_away(tmp_path: Path) -> None:
    library = Library(put(tmp_path, "a", "b", "c"))
    pool = ModelPool(tmp_path, library.open, max_loaded=2)
    assert pool.names() == ("a", "b", "c")
    assert [await who(pool, name) for name in ("", "b", "a", "c", "a")] == [
        "a",
        "b",
        "a",
        "c",
        "a",
    ]
    assert library.log == ["+a", "+b", "-b", "+c"]
    await pool.aclose()
    assert sorted(library.log[4:]) == ["-a", "-c"]


async def test_a_pinned_model_stays_and_is_warm_from_the_start(tmp_path: Path) -> None:
    library = Library(put(tmp_path, "a", "b", "c"))
    say(tmp_path, "c", pinned=True)
    pool = ModelPool(tmp_path, library.open, max_loaded=2)
    await pool.start()
    assert library.log == ["+c", "+a"]
    for name in ("b", "a", "b"):
        await who(pool, name)
    assert tmp_path / "c" in pool.loaded and "-c" not in library.log


async def test_what_answers_is_not_put_away(tmp_path: Path) -> None:
    hold = asyncio.Event()
    library = Library(put(tmp_path, "a", "b"), hold)
    pool = ModelPool(tmp_path, library.open)
    running = pool.generate(Request(prompt="x", model="a"))
    await anext(running)
    with pytest.raises(Overloaded, match="max-loaded"):
        await who(pool, "b")
    hold.set()
    assert [item async for item in running]
    assert await who(pool, "b") == "b"


async def test_a_version_is_switched_without_cutting_an_answer(tmp_path: Path) -> None:
    hold = asyncio.Event()
    library = Library(put(tmp_path, "m/9", "m/10"), hold)
    pool = ModelPool(tmp_path, library.open, max_loaded=2)
    old = pool.generate(Request(prompt="x"))
    first = await anext(old)
    assert isinstance(first, Delta) and first.text == "m/10", "10 is newer than 9"
    say(tmp_path, "m", current="9")
    hold.set()
    assert await who(pool) == "m/9"
    assert len([item async for item in old]) == 2, "the old one's answer came to its end"


async def test_a_canary_gets_its_share_the_same_askers_and_can_be_taken_back(
    tmp_path: Path,
) -> None:
    library = Library(put(tmp_path, "m/1", "m/2"))
    say(tmp_path, "m", current="1", canary="2", canary_share=0.25)
    pool = ModelPool(tmp_path, library.open, max_loaded=2)
    got = [await who(pool, "m", f"s{n}") for n in range(400)]
    assert 60 < Counter(got)["m/2"] < 140
    assert got[:50] == [await who(pool, "m", f"s{n}") for n in range(50)]
    say(tmp_path, "m", current="1")
    assert {await who(pool, "m", f"s{n}") for n in range(50)} == {"m/1"}


async def test_an_unknown_model_is_told_with_those_there_are(tmp_path: Path) -> None:
    pool = ModelPool(put(tmp_path, "a"), Library(tmp_path).open)
    with pytest.raises(RequestError, match="there are a"):
        await who(pool, "z")


@pytest.mark.parametrize(
    "said", ['{"current": "7"}', '{"canary": "7"}', '{"canary_share": 2}', "{", '{"x": 1}']
)
def test_a_wrong_serve_json_is_refused(tmp_path: Path, said: str) -> None:
    put(tmp_path, "m/1")
    (tmp_path / "m" / SERVE_FILE).write_text(said)
    with pytest.raises(SettingsError):
        served_versions(tmp_path / "m")


def test_a_folder_without_models_is_told(tmp_path: Path) -> None:
    opened: Callable[[Path], ScriptedEngine] = Library(tmp_path).open
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError):
            ModelPool(root, opened)


def test_versions_are_ordered_as_people_count(tmp_path: Path) -> None:
    put(tmp_path, "m/v2", "m/v10", "m/v1")
    assert versions_of(tmp_path / "m") == ["v1", "v2", "v10"]
    assert version_for(served_versions(tmp_path / "m"), "anyone") == "v10"
