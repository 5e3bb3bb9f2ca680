"""Changing the settings file for a person: their comments and order stay as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from backbone.causes import cause
from offload.errors import SettingsError
from offload.locking import BINARY
from offload.obstacles import obstacle

Value = str | int | float | bool


def change_settings(
    path: Path, section: str, values: Mapping[str, Value | None], *, remark: str = ""
) -> None:
    """Set fields of one section, or take out those of None; a remark stands behind each.

    The file is written beside itself and renamed; a new one only its owner may read, since keys
    may stand in it. Raises SettingsError where it cannot be read or written.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else None
        document = document if document is not None else tomlkit.document()
        table = document.setdefault(section, tomlkit.table())
        for name, value in values.items():
            if value is None:
                table.pop(name, None)
                continue
            item = tomlkit.item(value)
            table[name] = item.comment(remark) if remark else item
        _write(path, tomlkit.dumps(document))
    except (TOMLKitError, TypeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be changed ({cause(error)}); mend or delete it"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be changed: {obstacle(path, error)}") from None


def read_remarks(path: Path, section: str) -> dict[str, str]:
    """Return the remark behind each field that stands in a section, empty where there is none.

    Raises SettingsError.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, TOMLKitError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({cause(error)}); mend or delete it") from None
    table = document.get(section, {})
    items = {name: table.item(name) for name in table} if hasattr(table, "item") else {}
    return {name: item.trivia.comment.lstrip("# ").strip() for name, item in items.items()}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
