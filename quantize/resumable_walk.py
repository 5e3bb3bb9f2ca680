"""The state of a long walk through a model, kept after every block, so that it can go on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from backbone.errors import NearfarError
from backbone.private_files import SHARED, replacement


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """The number of blocks done, and the tensors that the next one needs."""

    layer: int
    tensors: dict[str, Tensor]


class StateFile:
    """One safetensors file that belongs to one task: same model, same text, same options."""

    def __init__(self, path: Path, *task: object) -> None:
        self.path = path
        self._key = hashlib.sha256(repr(task).encode()).hexdigest()

    def load(self) -> SavedState | None:
        """Return what was saved; None where nothing was. Raises NearfarError for another task."""
        if not self.path.is_file():
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise NearfarError(
                f"{self.path} is damaged ({error}); delete it to begin anew"
            ) from None
        if about.get("task") != self._key:
            raise NearfarError(
                f"{self.path} is left from another run; delete it, or repeat that run's options"
            )
        return SavedState(layer=int(about["layer"]), tensors=tensors)

    def save(self, layer: int, tensors: dict[str, Tensor]) -> None:
        """Replace the file by the state after `layer` blocks."""
        from safetensors.torch import save_file

        self.path.parent.mkdir(parents=True, exist_ok=True)
        about = {"task": self._key, "layer": str(layer)}
        whole = {n: t.contiguous().cpu() for n, t in tensors.items()}
        with replacement(self.path, mode=SHARED) as part:
            save_file(whole, part, metadata=about)

    def remove(self) -> None:
        """Forget the state, the walk being over."""
        self.path.unlink(missing_ok=True)
