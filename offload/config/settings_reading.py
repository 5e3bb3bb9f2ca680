"""Settings reading: one TOML file, NEARFAR_* variables over it, flags over both.

A variable is named after its section and field: cloud.url is NEARFAR_CLOUD_URL.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from backbone.errors import cause
from backbone.file_reading import read_text
from offload.config.settings import Settings
from offload.errors import SettingsError
from offload.messages import Privacy

_log = logging.getLogger(__name__)

PREFIX = "NEARFAR_"
MAX_FILE_BYTES = 1 << 20  # of a file that a person writes
# Where things are kept, whole traces of faults, and one of the project's own scripts.
OTHER_VARIABLES = ("NEARFAR_HOME", "NEARFAR_TRACE", "NEARFAR_EVENT_LOOP", "NEARFAR_CLIENTS_VENV")
# Kubernetes sets these in every pod beside a Service whose name begins with nearfar.
_KUBERNETES = re.compile(r"_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_(TCP|UDP|SCTP)\w*)?)$")


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the file, if there is one, and the variables; raises SettingsError."""
    settings = applied(Settings(), read_file(path), f"in {path}")
    return applied(settings, read_variables(environment), "in the environment")


def is_said(
    path: Path, section: str, name: str, environment: Mapping[str, str] = os.environ
) -> bool:
    """Whether a person has set this field themselves, in the file or by a variable."""
    in_file = name in read_file(path).get(section, {})
    return in_file or f"NEARFAR_{section}_{name}".upper() in environment


def read_file(path: Path) -> dict[str, Any]:
    """Return what stands in the file, empty where there is none. Raises SettingsError."""
    if not path.exists():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(read_text(path, MAX_FILE_BYTES, pipes=False))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read ({cause(error)}); mend or delete it") from None


def read_variables(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return what the variables say, by section and name.

    One that is no setting may be another program's: it is told once, with the nearest, and left.
    """
    found: dict[str, dict[str, str]] = {}
    for variable in environment:
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES:
            continue
        section, _, name = variable.removeprefix(PREFIX).lower().partition("_")
        if _KUBERNETES.search(variable) and name not in _names(section):
            continue
        if name not in _names(section):
            _warn_of(variable)
            continue
        found.setdefault(section, {})[name] = environment[variable]
    return found


@functools.cache
def _warn_of(variable: str) -> None:
    known = [
        f"{PREFIX}{section.name}_{name}".upper()
        for section in fields(Settings)
        for name in _names(section.name)
    ]
    near = difflib.get_close_matches(variable, [*known, *OTHER_VARIABLES], n=1)
    meant = f"did you mean {near[0]}?" if near else "settings are NEARFAR_SECTION_NAME"
    _log.warning("nearfar: the variable %s is no setting and is left; %s", variable, meant)


def _names(section: str) -> list[str]:
    known = getattr(Settings(), section, None)
    return [each.name for each in fields(known)] if known is not None else []


def applied(settings: Settings, raw: Mapping[str, Any], where: str) -> Settings:
    """Return the settings with these over them; `where` they stand is told in SettingsError."""
    known = [section.name for section in fields(Settings)]
    changed: dict[str, Any] = {}
    for name, values in raw.items():
        if name not in known:
            raise SettingsError(f"unknown section {name!r} {where}; {_meant(name, known)}")
        if not isinstance(values, Mapping):
            raise SettingsError(
                f"{name} {where} is {values!r}; write [{name}] and its settings in the lines below"
            )
        changed[name] = _section(getattr(settings, name), name, values, where)
    return replace(settings, **changed)


def _section(section: Any, name: str, values: Mapping[str, Any], where: str) -> Any:
    assert is_dataclass(section), "a section of the settings is a dataclass"
    kinds = get_type_hints(type(section))
    changed: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kinds:
            raise SettingsError(f"unknown setting {name}.{key} {where}; {_meant(key, kinds)}")
        changed[key] = _convert(f"{name}.{key}", value, kinds[key])
    return replace(section, **changed)  # type: ignore[type-var]


def _meant(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    listed = f"known are {', '.join(sorted(known))}"
    return f"did you mean {near[0]}? {listed}" if near else listed


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
