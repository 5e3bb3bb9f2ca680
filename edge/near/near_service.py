"""Near service: the models that one process runs for the page, the API and the commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge.near.factory import RunFlags, open_hybrid
from edge.near.models_by_name import ModelsByName
from edge.near.on_demand import OnDemandEngine, open_pool
from offload.config.places import Places
from offload.config.settings import EdgeSettings, Settings
from offload.engine import Engine
from offload.engine_pool import ResidentEngine
from offload.hybrid.hybrid import Hybrid


class NearService:
    """Near models of one process: each is loaded when it is asked, by whomever, and once.

    `keeps_first` keeps what `open_engine` opens in memory for ever; else every model leaves it
    when it has been idle for edge.keep_alive.
    """

    def __init__(self, settings: Settings, here: Places, *, keeps_first: bool = False) -> None:
        self.pool = open_pool(settings, here)
        self._settings, self._here = settings, here
        self._keep_alive_s = -1.0 if keeps_first else None
        self._named: list[ModelsByName] = []

    def open_engine(self, settings: Settings, here: Places, flags: RunFlags) -> Hybrid:
        """Return the hybrid of the settings' model, which is loaded when it is first asked."""
        if settings.edge.server:  # which has its model in memory itself
            return open_hybrid(settings, here, flags)
        near = OnDemandEngine(self.pool, settings.edge, here, keep_alive_s=self._keep_alive_s)
        return open_hybrid(settings, here, flags, edge=near)

    def engine_at(self, edge: EdgeSettings) -> OnDemandEngine:
        """Return the near model of these settings, for a command of the same person.

        Raises CheckpointError.
        """
        # How long it stays is the service's to say: it is no other copy of the model.
        own = replace(edge, keep_alive=self._settings.edge.keep_alive, use_service=True)
        return OnDemandEngine(self.pool, own, self._here)

    def by_name(
        self,
        first: Engine,
        flags: RunFlags,
        *,
        chosen: Callable[[], EdgeSettings] | None = None,
        only_first: bool = False,
    ) -> ModelsByName:
        """Return the models as engines by their names; see ModelsByName."""
        models = ModelsByName(
            first,
            self.pool,
            self._settings,
            self._here,
            flags,
            chosen=chosen,
            only_first=only_first,
        )
        self._named.append(models)
        return models

    def in_memory(self) -> list[ResidentEngine[EdgeSettings]]:
        """Return the models in memory, the one asked last first; `key.model` is a path."""
        return self.pool.resident()

    async def unload(self, path: Path) -> bool:
        """Take a model out of memory; return False where it is answering."""
        keys = [key for key in self.pool.loaded if Path(key.model) == path.absolute()]
        return all([await self.pool.close_one(key) for key in keys])

    async def aclose(self) -> None:
        """Close what was opened by name, and take all models out of memory."""
        for models in self._named:
            await models.aclose()
        await self.pool.aclose()
