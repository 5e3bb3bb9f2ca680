"""Picture files: told from documents by their first bytes, and read within bounds."""

from __future__ import annotations

from pathlib import Path

from backbone.errors import cause
from backbone.file_reading import read_bytes
from offload.errors import RequestError
from offload.messages import Picture
from offload.pictures import MAX_PICTURE_BYTES, looks_like_picture, picture_of


def is_picture(path: Path) -> bool:
    """Whether a file begins as a picture does."""
    try:
        if not path.is_file():  # a pipe may be read once only
            return False
        with path.open("rb") as file:
            return looks_like_picture(file.read(16))
    except (OSError, ValueError):
        return False  # said where it is read


def read_picture(path: Path) -> Picture:
    """Return the picture in a file, without its metadata. Raises RequestError."""
    try:
        return picture_of(read_bytes(path, MAX_PICTURE_BYTES))
    except OSError as error:
        raise RequestError(
            f"{path} cannot be attached ({cause(error)}); make the picture smaller"
        ) from None
    except RequestError as error:
        raise RequestError(f"{path} cannot be attached: {error}") from None
