"""Changing the settings file for a person: their comments and order stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from offload.errors import SettingsError


def change_settings(
    path: Path, section: str, values: Mapping[str, str | int | float | bool]
) -> None:
    """Set fields of one section; the file is written beside itself and renamed.

    Raises SettingsError where the file cannot be read or written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else None
        document = document if document is not None else tomlkit.document()
        table = document.setdefault(section, tomlkit.table())
        for name, value in values.items():
            table[name] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(tomlkit.dumps(document), encoding="utf-8")
        partial.replace(path)
    except (OSError, TOMLKitError, TypeError) as error:
        raise SettingsError(f"{path} cannot be changed ({error}); mend or delete it") from None
