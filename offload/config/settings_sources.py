"""Settings sources: where each setting comes from, and how one is changed in the file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from backbone.errors import WrongUsage, as_typed, cause
from backbone.file_reading import read_text
from backbone.files import atomic_write
from offload.config.file_lock import turn
from offload.config.obstacles import obstacle
from offload.config.settings import Settings
from offload.config.settings_reading import (
    MAX_FILE_BYTES,
    PREFIX,
    applied,
    load,
    read_file,
    read_variables,
)
from offload.errors import SettingsError
from offload.messages import Privacy

Source = Literal["default", "file", "environment"]
SECRETS = ("cloud.api_key", "serve.api_keys")


@dataclass(frozen=True, kw_only=True)
class SettingValue:
    """One setting: its name as section.name, its value now, and who said so."""

    name: str
    value: str | int | float | bool | None
    source: Source

    @property
    def variable(self) -> str:
        """Return the environment variable that would set it."""
        return PREFIX + self.name.replace(".", "_").upper()


def all_said(path: Path, environment: Mapping[str, str] = os.environ) -> list[SettingValue]:
    """Return every setting in the order of the sections; what is secret is only told as set.

    Raises SettingsError.
    """
    settings = load(path, environment)
    in_file, in_variables = read_file(path), read_variables(environment)

    def source(section: str, name: str) -> Source:
        if name in in_variables.get(section, {}):
            return "environment"
        return "file" if name in in_file.get(section, {}) else "default"

    return [
        SettingValue(
            name=f"{section.name}.{each.name}",
            value=_shown(f"{section.name}.{each.name}", getattr(of_section, each.name)),
            source=source(section.name, each.name),
        )
        for section in fields(Settings)
        for of_section in [getattr(settings, section.name)]
        for each in fields(of_section)
    ]


def put(path: Path, name: str, text: str) -> str | int | float | bool:
    """Write one setting to the file and return its value, once all of the file holds with it.

    A value that was wrong before may be mended so. Raises WrongUsage for a name or a value that
    is none, and SettingsError.
    """
    section, field = _parted(name)
    with as_typed():
        applied(Settings(), {section: {field: text}}, "as it was given")
    raw = read_file(path)
    changed = {**raw, section: {**raw.get(section, {}), field: text}}
    settings = applied(Settings(), changed, f"in {path}")
    value = getattr(getattr(settings, section), field)
    value = value.value if isinstance(value, Privacy) else value
    change_settings(path, section, {field: value})
    assert isinstance(value, str | int | float), "a setting is text, a number or a truth"
    return value


def drop(path: Path, name: str) -> bool:
    """Take a setting out of the file, so that its default holds; return whether it stood there.

    Raises WrongUsage, SettingsError.
    """
    section, field = _parted(name)
    if field not in read_file(path).get(section, {}):
        return False
    change_settings(path, section, {field: None})
    return True


def no_setting(name: str) -> WrongUsage:
    """Return the error for a name that is no setting, with those that were probably meant."""
    settings = Settings()
    known = [
        f"{section.name}.{each.name}"
        for section in fields(settings)
        for each in fields(getattr(settings, section.name))
    ]
    near = _nearest(name, known)
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return WrongUsage(
        f"there is no setting {name!r}; {meant}`nearfar config show` lists all of them"
    )


def _nearest(name: str, known: list[str]) -> list[str]:
    """Return at most three settings: of that last word, else those spelled alike."""
    last = name.rpartition(".")[2].lower()
    of_word = [each for each in known if last and each.partition(".")[2] == last]
    spelled = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.8)
    fields_alike = {each.partition(".")[2]: each for each in known}
    by_field = difflib.get_close_matches(last, fields_alike, n=2, cutoff=0.75)
    found = [*of_word, *spelled, *(fields_alike[each] for each in by_field)]
    return list(dict.fromkeys(found))[:3]


def _parted(name: str) -> tuple[str, str]:
    """Return section and field. Raises WrongUsage for a name that is none."""
    section, dot, field = name.partition(".")
    if not dot or not field:
        raise no_setting(name)
    of_section = getattr(Settings(), section, None)
    names = [] if of_section is None else [each.name for each in fields(of_section)]
    if field not in names:
        raise no_setting(name)
    return section, field


def _shown(name: str, value: Any) -> str | int | float | bool | None:
    if isinstance(value, Privacy):
        return str(value.value)
    if name in SECRETS and value:
        return "(set)"
    shown: str | int | float | bool | None = value
    return shown


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
    except (TOMLKitError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(
            f"{path} cannot be changed ({cause(error)}); mend or delete it"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be changed: {obstacle(path, error)}") from None


def _changed(path: Path, section: str, values: Mapping[str, Value | None], remark: str) -> str:
    import tomlkit

    document = (
        tomlkit.parse(read_text(path, MAX_FILE_BYTES, pipes=False)) if path.exists() else None
    )
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
        document = (
            tomlkit.parse(read_text(path, MAX_FILE_BYTES, pipes=False)) if path.exists() else {}
        )
    except (OSError, TOMLKitError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read ({cause(error)}); mend or delete it") from None
    table = document.get(section, {})
    items = {name: table.item(name) for name in table} if hasattr(table, "item") else {}
    return {name: item.trivia.comment.lstrip("# ").strip() for name, item in items.items()}


def _write(path: Path, text: str) -> None:
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    atomic_write(path, text.encode("utf-8"), mode=mode)
