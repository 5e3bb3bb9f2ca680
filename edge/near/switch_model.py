"""Switch of the near model in a running chat; the old one is freed first where both do not fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from backbone.errors import NearfarError
from backbone.process_limits import free_memory_bytes
from edge.models.local_models import choices, find_model, memory_needed, spelt
from edge.models.used_models import note_use, used_by_path
from offload.engine import Engine


class EngineHolder(Protocol):
    """Holder of the engine that answers."""

    engine: Engine


class ModelSwitch:
    """Switch of the near model by name; `open_engine` loads one, `current` names the first."""

    def __init__(
        self,
        open_engine: Callable[[str], Engine],
        models: Path,
        *,
        current: str,
        free_bytes: Callable[[], int] = free_memory_bytes,
    ) -> None:
        self._open, self._models, self.current = open_engine, models, spelt(current)
        note_use(current, models)
        self._used = [current, *used_by_path(models)]  # which a list has whatever they are
        self._free_bytes = free_bytes

    def names(self) -> list[str]:
        """Return the names that change() takes, what was used by its path among them."""
        return choices(self._models, self._used)

    async def change(self, holder: EngineHolder, name: str) -> None:
        """Give the holder another model. Raises NearfarError, and then it keeps the old one."""
        path = find_model(name, self._models)  # a wrong name is said before anything is freed
        if memory_needed(path) <= self._free_bytes():
            await self._beside(holder, name)
        else:
            await self._instead(holder, name)
        self.current = name
        note_use(name, self._models)
        self._used = list(dict.fromkeys([*self._used, name]))

    async def _beside(self, holder: EngineHolder, name: str) -> None:
        engine = await asyncio.to_thread(self._open, name)
        old, holder.engine = holder.engine, engine
        await old.aclose()

    async def _instead(self, holder: EngineHolder, name: str) -> None:
        await holder.engine.aclose()
        try:
            holder.engine = await asyncio.to_thread(self._open, name)
        except NearfarError:
            holder.engine = await asyncio.to_thread(self._open, self.current)
            raise
