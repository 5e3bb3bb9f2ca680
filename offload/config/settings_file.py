"""Changing the settings file for a person: their comments and order stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from backbone.errors import cause
from backbone.files import atomic_write
from offload.config.file_lock import turn
from offload.config.obstacles import obstacle
from offload.errors import SettingsError

Value = str | int | float | bool


def change_settings(
    path: Path, section: str, values: Mapping[str, Value | None], *, remark: str = ""
) -> None:
    """Set fields of one section, or take out those of None; a remark stands behind each.

    The file is written beside itself and renamed; a new one only its owner may read, since keys
    may stand in it. Raises SettingsError where it cannot be read or written.
    """
    from tomlkit.exceptions import TOMLKitError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with turn(path.with_name(f".{path.name}.turn")):  # a change is of what stands there now
            _write(path, _changed(path, section, values, remark))
    except (TOMLKitError, TypeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be changed ({cause(error)}); mend or delete it"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be changed: {obstacle(path, error)}") from None


def _changed(path: Path, section: str, values: Mapping[str, Value | None], remark: str) -> str:
    import tomlkit

    document = tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else None
    document = document if document is not None else tomlkit.document()
    table = document.setdefault(section, tomlkit.table())
    for name, value in values.items():
        if value is None:
            table.pop(name, None)
            continue
        item = tomlkit.item(value)
        table[name] = item.comment(remark) if remark else item
    return tomlkit.dumps(document)


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
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    atomic_write(path, text.encode("utf-8"), mode=mode)
