"""Paths as a person types them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """Return the path with a leading `~` or `~name` as that user's folder.

    One of a user that is not there stays as it is typed, as shells leave it: pathlib raises.
    """
    return Path(os.path.expanduser(path))
