"""Split GGUF models: llama.cpp's NAME-00001-of-00003.gguf and the files that belong to it."""

from __future__ import annotations

import re
from pathlib import Path

from backbone.errors import CheckpointError

# The names that llama.cpp's gguf-split writes; it opens a set by its first part alone.
_PART = re.compile(r"(?P<start>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf")


def set_of(name: str) -> tuple[str, int, int] | None:
    """Return the start of a part's name, its number and how many there are; None for others."""
    found = _PART.fullmatch(name)
    return (found["start"], int(found["number"]), int(found["total"])) if found else None


def parts_of(path: Path) -> list[Path]:
    """Return the files of the set that a part belongs to, sorted; another file is its own set."""
    split = set_of(path.name)
    if split is None:
        return [path]
    start, _, total = split
    try:
        beside = [(set_of(each.name), each) for each in path.parent.iterdir()]
    except OSError:  # a folder that may be entered and not listed
        return [path]
    return sorted(each for found, each in beside if found and found[::2] == (start, total))


def is_later_part(path: Path) -> bool:
    """Whether a set is already known by its first part, which lies beside this one."""
    split = set_of(path.name)
    return split is not None and split[1] > 1 and _numbered(path, 1).exists()


def first_part(path: Path) -> Path:
    """Return the file that opens the whole set. Raises CheckpointError where parts are missing."""
    split = set_of(path.name)
    if split is None:
        return path
    missing = [number for number in range(1, split[2] + 1) if not _numbered(path, number).is_file()]
    if missing:
        listed = ", ".join(map(str, missing[:5])) + (" ..." if len(missing) > 5 else "")
        raise CheckpointError(
            f"{path} is one of {split[2]} parts and lacks part {listed} beside it; "
            "fetch the whole set into one folder"
        )
    return _numbered(path, 1)


def _numbered(path: Path, number: int) -> Path:
    split = set_of(path.name)
    assert split is not None, "only parts of a set have numbers"
    return path.with_name(f"{split[0]}-{number:05}-of-{split[2]:05}.gguf")
