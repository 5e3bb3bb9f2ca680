"""Used models: those that were used by their path, so that the lists of later runs have them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backbone.errors import CheckpointError
from backbone.files import atomic_write
from edge.models.local_models import as_setting

USED = "used.json"
_MOST = 20


def used_by_path(folder: Path) -> list[str]:
    """Return the paths of models outside the models folder that were used, the newest first.

    What is there no more is left out, and a list that cannot be read is none: it only spares a
    person to write a path again.
    """
    try:
        paths = msgspec.json.decode((folder / USED).read_bytes(), type=list[str])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    return [path for path in paths if Path(path).exists()]


def forget_use(path: str, folder: Path) -> None:
    """Take a model that was used by its path out of the list; its file stays."""
    kept = [each for each in used_by_path(folder) if each != path]
    atomic_write(folder / USED, msgspec.json.encode(kept))


def note_use(name: str, folder: Path) -> None:
    """Remember a model where `name` is its path; a folder that cannot be written keeps no list."""
    try:
        path = as_setting(name, folder)
        if Path(path).is_absolute():
            paths = list(dict.fromkeys([path, *used_by_path(folder)]))[:_MOST]
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / USED, msgspec.json.encode(paths))
    except (OSError, CheckpointError):
        return
