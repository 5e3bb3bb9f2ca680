"""Files of the models folder: where a pulled one lies, and which of them a removal deletes."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from backbone.errors import CheckpointError
from backbone.file_names import name_fault
from edge.models.download import DownloadError
from edge.models.local_models import find_any, is_embedded, read_aliases, set_alias
from edge.models.split_models import parts_of

# A name of the Hub; it begins with neither a dot nor a dash.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
REPO = re.compile(rf"{_NAME}/{_NAME}")


def placed(name: str, repo: str, folder: Path) -> Path:
    """Return where a file of a repository goes: `folder/OWNER/REPO/name`.

    Raises DownloadError for a name that leads elsewhere, or that some system cannot keep.
    """
    pieces = [*repo.split("/"), *name.split("/")]
    wrong = next((fault for piece in pieces if (fault := name_fault(piece))), None)
    home = folder.joinpath(*repo.split("/"))
    whole = folder.joinpath(*pieces)
    if wrong is None and not _stays(whole, home, folder):
        wrong = "it leads out of the repository's folder by a link"
    if wrong:
        raise DownloadError(
            f"{repo} names a file {name[:100]!r} that is not written here ({wrong}); "
            "choose another repository"
        )
    return whole


def _stays(whole: Path, home: Path, folder: Path) -> bool:
    # The models folder itself may be a link; nothing below it may.
    inside = folder.resolve() / home.relative_to(folder)
    return whole.parent.resolve() == inside / whole.parent.relative_to(home) and not (
        whole.is_symlink()
    )


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
