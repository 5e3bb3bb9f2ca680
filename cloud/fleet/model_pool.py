"""The model pool: several models behind one endpoint, loaded on demand, the idlest unloaded.

ROOT/NAME is a model folder, or holds one folder for each version. ROOT/NAME/serve.json says which
is served: {"current": "2", "canary": "3", "canary_share": 0.1, "pinned": true}; without it, the
newest version by name. Writing that file is how a version is switched, tried, and taken back.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec

from backbone.errors import CheckpointError, cause
from backbone.file_reading import read_bytes
from cloud.fleet.balance import total_load
from offload.engine import AnswerStream, Engine, LoadReporting
from offload.engine_pool import EnginePool
from offload.errors import Overloaded, RequestError, SettingsError
from offload.messages import EngineLoad, ModelCard, Request

SERVE_FILE = "serve.json"
_MAX_BYTES = 1 << 20  # of that file


class ServedVersions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of a model's serve.json."""

    current: str = ""
    canary: str = ""
    canary_share: float = 0.0
    pinned: bool = False


def models_in(root: Path) -> list[str]:
    """Return the names of the models in a folder, in order. Raises CheckpointError."""
    if not root.is_dir():
        raise CheckpointError(f"{root} is no folder; name one that holds a folder for each model")
    names = [each.name for each in sorted(root.iterdir()) if each.is_dir() and versions_of(each)]
    if not names:
        raise CheckpointError(f"{root} holds no model folder (one with a config.json); add one")
    return names


def versions_of(model: Path) -> list[str]:
    """Return a model's versions, oldest first; one without versions has the version ''."""
    if (model / "config.json").is_file():
        return [""]
    found = [each.name for each in model.iterdir() if (each / "config.json").is_file()]
    return sorted(found, key=_natural)


def served_versions(model: Path) -> ServedVersions:
    """Return the contents of serve.json, defaults filled in. Raises SettingsError."""
    path, versions = model / SERVE_FILE, versions_of(model)
    if not versions:
        raise SettingsError(f"{model} holds no version any more; put one back")
    try:
        listed = read_bytes(path, _MAX_BYTES) if path.exists() else b"{}"
        chosen = msgspec.json.decode(listed, type=ServedVersions)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({cause(error)}); mend or delete it") from None
    for name in (chosen.current, chosen.canary):
        if name and name not in versions:
            raise SettingsError(f"{path} names {name!r}; there are {', '.join(versions)}")
    if not 0.0 <= chosen.canary_share <= 1.0:
        raise SettingsError(f"{path}: canary_share is {chosen.canary_share}; it must be 0 to 1")
    return msgspec.structs.replace(chosen, current=chosen.current or versions[-1])


def version_for(chosen: ServedVersions, asker: str) -> str:
    """Return the version for one asker, always the same; a share of askers gets the canary."""
    if not chosen.canary:
        return chosen.current
    draw = int.from_bytes(hashlib.blake2b(asker.encode(), digest_size=4).digest(), "big") / 2**32
    return chosen.canary if draw < chosen.canary_share else chosen.current


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


class ModelPool:
    """An Engine with names, one for each model in a folder (cloud/fleet/model_pool.py).

    At most `max_loaded` are in memory: the one that was asked longest ago is unloaded for another,
    never one that is answering or pinned. A version is switched without cutting an answer: what
    runs ends on the old one. `open_engine` may take its time; it is called in a thread.
    """

    def __init__(
        self, root: Path, open_engine: Callable[[Path], Engine], *, max_loaded: int = 1
    ) -> None:
        """List the models of the folder. Raises CheckpointError or SettingsError."""
        self._root = root
        self._names = models_in(root)
        self._pool = EnginePool(
            open_engine,
            has_room=lambda _, loaded: len(loaded) < max_loaded,
            busy=f"all {max_loaded} models in memory are in use; ask again later, or serve with a "
            "higher --max-loaded",
        )

    def names(self) -> tuple[str, ...]:
        """Return the models' names; the first answers where none is named."""
        return tuple(self._names)

    @property
    def loaded(self) -> tuple[Path, ...]:
        """The folders that are in memory, the longest unasked first."""
        return self._pool.loaded

    def card(self) -> ModelCard:
        """Return the card of the model that was asked last. Raises Overloaded before `start`."""
        resident = self._pool.resident()
        if not resident:
            raise Overloaded("no model is loaded yet; ask again in a moment")
        return resident[0].engine.card()

    async def start(self) -> ModelCard:
        """Load the first model, and the pinned ones."""
        for name in self._names[::-1]:
            if name == self._names[0] or served_versions(self._root / name).pinned:
                async with self._in_use(name, ""):
                    pass
        return self.card()

    async def generate(self, request: Request) -> AnswerStream:
        """Stream the answer of the model that is named. Raises RequestError, Overloaded."""
        name = request.model or self._names[0]
        if name not in self._names:
            raise RequestError(f"there is no model {name!r}; there are {', '.join(self._names)}")
        own = msgspec.structs.replace(request, model="")  # the engine has no names
        async with self._in_use(name, request.session or request.id) as engine:
            items = engine.generate(own)
            async with contextlib.aclosing(items):
                async for item in items:
                    yield item

    def report(self) -> EngineLoad | None:
        """Return the load of the models in memory; see offload.engine.LoadReporting."""
        engines = [each.engine for each in self._pool.resident()]
        return total_load([each.report() for each in engines if isinstance(each, LoadReporting)])

    async def aclose(self) -> None:
        """Unload every model."""
        await self._pool.aclose()

    def _in_use(self, name: str, asker: str) -> AbstractAsyncContextManager[Engine]:
        versions = served_versions(self._root / name)
        folder = self._root / name / version_for(versions, asker)
        return self._pool.in_use(folder, pinned=versions.pinned)
