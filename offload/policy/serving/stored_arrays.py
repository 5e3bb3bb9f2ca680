"""Stored arrays of a policy: an .npz file, read within bounds, with nothing pickled in it."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backbone.file_reading import MAX_TEXT_BYTES, read_bytes

Arrays = dict[str, npt.NDArray[Any]]


def read_arrays(path: Path) -> Arrays:
    """Return the arrays by name. Raises OSError or ValueError where the file is no such archive.

    Some compressed kilobytes may claim to be many gigabytes: the claim is read before the arrays.
    """
    try:
        file = io.BytesIO(read_bytes(path, MAX_TEXT_BYTES))
        with zipfile.ZipFile(file) as archive:
            size = sum(each.file_size for each in archive.infolist())
        if size > MAX_TEXT_BYTES:
            raise ValueError(f"it unpacks to {size:,} bytes, and {MAX_TEXT_BYTES:,} are read")
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(str(error) or "it is cut off") from None
