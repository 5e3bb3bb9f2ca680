"""Short names of models: those that a person gave, and those that pulling gave."""

from __future__ import annotations

from pathlib import Path

import msgspec

from backbone.error_causes import cause
from backbone.errors import CheckpointError
from backbone.private_files import atomic_write
from offload.errors import RequestError

ALIASES = "aliases.json"


def read_aliases(folder: Path) -> dict[str, str]:
    """Return the short names that a person gave, and those that pulling gave."""
    try:
        return msgspec.json.decode((folder / ALIASES).read_bytes(), type=dict[str, str])
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{folder / ALIASES} cannot be read ({cause(error)}); mend or delete it"
        ) from None


def set_alias(alias: str, target: str | None, folder: Path) -> None:
    """Give a model another name; None takes the name away. Raises RequestError for an empty one."""
    if not alias.strip():
        raise RequestError("the alias is empty; write a name")
    aliases = read_aliases(folder)
    aliases.pop(alias, None)
    if target is not None:
        aliases[alias] = target
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(folder / ALIASES, msgspec.json.format(msgspec.json.encode(aliases)))
