"""`nearfar models remove`: which files a model of the models folder is, and their end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from backbone.errors import CheckpointError
from edge.models.aliases import read_aliases, set_alias
from edge.models.local_models import find_any, is_embedded
from edge.models.split_models import parts_of


def removable(name: str, folder: Path) -> list[Path]:
    """Return what removing a model would delete. Raises CheckpointError for what is not ours."""
    if is_embedded(name, folder):
        raise CheckpointError(
            f"{name} belongs to nearfar itself and not in the models folder; "
            "it goes with `pip uninstall nearfar`"
        )
    path = find_any(name, folder, whole=False)
    if folder.resolve() not in path.resolve().parents:
        raise CheckpointError(
            f"{path} is not in the models folder; it belongs to another program, or to you: "
            "delete it yourself if you want it gone"
        )
    return parts_of(path)


def delete(files: Sequence[Path], folder: Path) -> None:
    """Delete these files and folders, the aliases that meant them, and what is empty then."""
    dropped = [
        alias for alias, target in read_aliases(folder).items() if _is(target, folder, files)
    ]
    for each in files:
        shutil.rmtree(each) if each.is_dir() else each.unlink()
        with contextlib.suppress(OSError):  # not empty
            for parent in each.parents:
                if folder not in parent.parents:
                    break
                parent.rmdir()
    for alias in dropped:
        set_alias(alias, None, folder)


def _is(target: str, folder: Path, files: Sequence[Path]) -> bool:
    with contextlib.suppress(CheckpointError):
        return find_any(target, folder, whole=False) in files
    return False
