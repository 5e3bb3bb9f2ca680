"""The models and versions of a model pool on disk, and which version of each is served.

ROOT/NAME is a model folder, or holds one folder for each version. ROOT/NAME/serve.json says what
is served: {"current": "2", "canary": "3", "canary_share": 0.1, "pinned": true}; without it, the
newest version by name. Writing that file is how a version is switched, tried, and taken back.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec

from backbone.error_causes import cause
from backbone.errors import CheckpointError
from offload.errors import SettingsError

SERVE_FILE = "serve.json"


class ServedVersions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of a model's serve.json."""

    current: str = ""
    canary: str = ""
    canary_share: float = 0.0
    pinned: bool = False


def models_in(root: Path) -> list[str]:
    """Return the names of the models in a folder, in order. Raises CheckpointError."""
    if not root.is_dir():
        raise CheckpointError(f"{root} is no folder; name one that holds a folder for each model")
    names = [each.name for each in sorted(root.iterdir()) if each.is_dir() and versions_of(each)]
    if not names:
        raise CheckpointError(f"{root} holds no model folder (one with a config.json); add one")
    return names


def versions_of(model: Path) -> list[str]:
    """Return a model's versions, oldest first; one without versions has the version ''."""
    if (model / "config.json").is_file():
        return [""]
    found = [each.name for each in model.iterdir() if (each / "config.json").is_file()]
    return sorted(found, key=_natural)


def served_versions(model: Path) -> ServedVersions:
    """Return the contents of serve.json, defaults filled in. Raises SettingsError."""
    path, versions = model / SERVE_FILE, versions_of(model)
    if not versions:
        raise SettingsError(f"{model} holds no version any more; put one back")
    try:
        listed = path.read_bytes() if path.exists() else b"{}"
        chosen = msgspec.json.decode(listed, type=ServedVersions)
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({cause(error)}); mend or delete it") from None
    for name in (chosen.current, chosen.canary):
        if name and name not in versions:
            raise SettingsError(f"{path} names {name!r}; there are {', '.join(versions)}")
    if not 0.0 <= chosen.canary_share <= 1.0:
        raise SettingsError(f"{path}: canary_share is {chosen.canary_share}; it must be 0 to 1")
    return msgspec.structs.replace(chosen, current=chosen.current or versions[-1])


def version_for(chosen: ServedVersions, asker: str) -> str:
    """Return the version for one asker, always the same; a share of askers gets the canary."""
    if not chosen.canary:
        return chosen.current
    draw = int.from_bytes(hashlib.blake2b(asker.encode(), digest_size=4).digest(), "big") / 2**32
    return chosen.canary if draw < chosen.canary_share else chosen.current


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
