"""Reading settings: one TOML file, NEARFAR_* variables over it, flags over both.

A variable is named after its section and field: cloud.url is NEARFAR_CLOUD_URL.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from offload.errors import SettingsError
from offload.messages import Privacy
from offload.settings import Settings


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the file, if there is one, and the variables; raises SettingsError."""
    settings = _apply(Settings(), _read(path), f"in {path}")
    return _apply(settings, _variables(environment), "in the environment")


def is_said(
    path: Path, section: str, name: str, environment: Mapping[str, str] = os.environ
) -> bool:
    """Whether a person has set this field themselves, in the file or by a variable."""
    in_file = name in _read(path).get(section, {})
    return in_file or f"NEARFAR_{section}_{name}".upper() in environment


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); mend or delete it") from None


def _variables(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for section in fields(Settings):
        prefix = f"NEARFAR_{section.name.upper()}_"
        names = [n for n in environment if n.startswith(prefix)]
        for name in names:
            found.setdefault(section.name, {})[name[len(prefix) :].lower()] = environment[name]
    return found


def _apply(settings: Settings, raw: Mapping[str, Any], where: str) -> Settings:
    known = {section.name for section in fields(Settings)}
    changed: dict[str, Any] = {}
    for name, values in raw.items():
        if name not in known or not isinstance(values, Mapping):
            raise SettingsError(
                f"unknown section {name!r} {where}; sections are {', '.join(sorted(known))}"
            )
        changed[name] = _section(getattr(settings, name), name, values, where)
    return replace(settings, **changed)


def _section(section: Any, name: str, values: Mapping[str, Any], where: str) -> Any:
    assert is_dataclass(section), "a section of the settings is a dataclass"
    kinds = get_type_hints(type(section))
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kinds:
            raise SettingsError(
                f"unknown setting {name}.{key} {where}; known are {', '.join(sorted(kinds))}"
            )
        changed[key] = _convert(f"{name}.{key}", value, kinds[key])
    return replace(section, **changed)  # type: ignore[type-var]


def _convert(name: str, value: Any, kind: Any) -> Any:
    if kind is bool:
        return _truth(name, value)
    if kind is Privacy:
        allowed = [each.value for each in Privacy]
        if value not in allowed:
            raise SettingsError(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
        return Privacy(value)
    target = {int: int, float: float, str: str}.get(kind, float)
    try:
        if isinstance(value, bool) or (target is str and not isinstance(value, str)):
            raise ValueError
        return target(value)
    except (TypeError, ValueError):
        words = {int: "a whole number", float: "a number", str: "text"}
        raise SettingsError(f"{name} is {value!r}; it must be {words[target]}") from None


def _truth(name: str, value: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    known = words.get(str(value).lower())
    if known is None:
        raise SettingsError(f"{name} is {value!r}; it must be true or false")
    return known
