"""Models by name: the models of this device as engines, each loaded when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge.models.local_models import find_listed, find_model, names_here
from edge.near.factory import RunFlags, open_hybrid
from edge.near.on_demand import OnDemandEngine
from offload.config.places import Places
from offload.config.settings import EdgeSettings, Settings
from offload.engine import Engine
from offload.engine_pool import EnginePool


class ModelsByName:
    """Engines by the names of their models: `first` is the caller's, others are opened (ByModel).

    Every model has a hybrid of its own, since a policy is that of one model. `chosen` tells the
    settings of the first; its draft model and adapters are not for the others.
    """

    def __init__(
        self,
        first: Engine,
        pool: EnginePool[EdgeSettings],
        settings: Settings,
        here: Places,
        flags: RunFlags,
        *,
        chosen: Callable[[], EdgeSettings] | None = None,
        only_first: bool = False,
    ) -> None:
        """`only_first` names no other model."""
        self._first, self._pool, self._settings, self._here = first, pool, settings, here
        self._flags, self._chosen = flags, chosen or (lambda: settings.edge)
        self._only_first = only_first
        self._others: dict[Path, Engine] = {}

    def local_names(self) -> tuple[str, ...]:
        """Return the names of all models that can be asked, aliases included."""
        first = self._path_of_first()
        names = names_here(self._here.models)
        if self._only_first:
            names = [name for name in names if find_listed(name, self._here.models) == first]
        return tuple(names)

    def engine_for(self, name: str) -> Engine | None:
        """Return the engine of the model that a name means. See ByModel."""
        edge, first = self._chosen(), self._path_of_first()
        if name == self._first.card().name or (first and name in _names(edge, first)):
            return self._first
        path = find_listed(name, self._here.models)
        if path is not None and path == first:
            return self._first
        if path is None or self._only_first:
            return None
        if path not in self._others:
            own = replace(edge, model=str(path), server="", draft_model="", lora="")
            self._others[path] = self._open(own)
        return self._others[path]

    def _path_of_first(self) -> Path | None:
        """Return the first model's file; that of a server's model is not known."""
        if self._chosen().server:
            return None
        return find_model(self._chosen().model, self._here.models)

    def _open(self, edge: EdgeSettings) -> Engine:
        settings = replace(self._settings, edge=edge)
        near = OnDemandEngine(self._pool, edge, self._here)
        return open_hybrid(settings, self._here, self._flags, edge=near)

    async def aclose(self) -> None:
        """Close the engines that were opened here."""
        for engine in self._others.values():
            await engine.aclose()


def _names(edge: EdgeSettings, path: Path) -> tuple[str, ...]:
    return (edge.model, str(path), path.name, path.stem)
