"""Where a pulled file lies: in its repository's own folder, whatever the repository calls it."""

from __future__ import annotations

import re
from pathlib import Path

from edge.models.download import DownloadError

# A name of the Hub; it begins with neither a dot nor a dash.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
REPO = re.compile(rf"{_NAME}/{_NAME}")
_MAX_NAME_LEN = 200
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|]')  # commands, and what Windows reserves
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def placed(name: str, repo: str, folder: Path) -> Path:
    """Return where a file of a repository goes: `folder/OWNER/REPO/name`.

    Raises DownloadError for a name that leads elsewhere, or that some system cannot keep.
    """
    pieces = [*repo.split("/"), *name.split("/")]
    wrong = next((told for piece in pieces if (told := _fault(piece))), None)
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


def _fault(piece: str) -> str | None:
    if piece in ("", ".", ".."):
        return "it leads outside its folder"
    if _FORBIDDEN.search(piece) or piece != piece.strip(" ") or piece.endswith("."):
        return "it has characters that file names cannot have"
    if _RESERVED.fullmatch(piece):
        return "the name is reserved"
    return "the name is too long" if len(piece.encode("utf-8", "replace")) > _MAX_NAME_LEN else None


def _stays(whole: Path, home: Path, folder: Path) -> bool:
    # The models folder itself may be a link; nothing below it may.
    inside = folder.resolve() / home.relative_to(folder)
    return whole.parent.resolve() == inside / whole.parent.relative_to(home) and not (
        whole.is_symlink()
    )
