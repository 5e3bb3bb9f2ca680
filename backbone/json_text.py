"""JSON of files from anyone: what cannot be read is a ValueError, however it cannot."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes | bytearray) -> Any:
    """Return what a text of JSON says. Raises ValueError, also where it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
