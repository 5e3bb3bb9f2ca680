"""Presets: a persona, its sampling, its model and its privacy under one name, kept by a person."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from backbone.errors import WrongUsage, cause
from backbone.files import atomic_write
from offload.config.file_lock import turn
from offload.errors import RequestError, SettingsError
from offload.messages import Privacy, Sampling, sampling_at

_DRAWN = ("top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop")
_MAX_NAME_LEN = 64


class Preset(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Preset of a conversation; what is None or empty is left as the settings have it.

    `privacy` can keep more here than the settings do, and never less.
    """

    system: str = ""
    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    privacy: Privacy | None = None

    def __post_init__(self) -> None:
        self.sampling(None, max_tokens=1)

    def sampling(self, by_default: float | None, *, max_tokens: int) -> Sampling:
        """Return how tokens are drawn; the arguments hold where this says nothing.

        Raises RequestError for a value out of range.
        """
        given = by_default if self.temperature is None else self.temperature
        said = {name: getattr(self, name) for name in _DRAWN}
        said = {name: value for name, value in said.items() if value not in (None, ())}
        if self.max_tokens is not None:
            max_tokens = self.max_tokens
        return sampling_at(given, max_tokens=max_tokens, **said)


Presets = dict[Annotated[str, Meta(min_length=1, max_length=_MAX_NAME_LEN)], Preset]


def read_presets(path: Path) -> Presets:
    """Return the presets by name; none where there is no file. Raises SettingsError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Presets)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RequestError) as error:
        raise SettingsError(f"{path} cannot be read ({cause(error)}); mend or delete it") from None


def changed_preset(before: Preset | None, given: Mapping[str, Any]) -> Preset:
    """Return a preset with what is given in its place; None is not given. Raises RequestError."""
    said = msgspec.to_builtins(before or Preset())
    said |= {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert(said, Preset, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError(f"a preset cannot hold that: {cause(error)}") from None


def preset_of(name: str, path: Path) -> Preset:
    """Return the preset of this name. Raises WrongUsage with those that there are."""
    known = read_presets(path)
    if name not in known:
        names = ", ".join(known) or "none yet; `nearfar presets set NAME` makes one"
        raise WrongUsage(f"there is no preset {name!r}; there are {names}")
    return known[name]


def keep_preset(name: str, preset: Preset | None, path: Path) -> None:
    """Keep a preset under a name, or with None forget it. Raises WrongUsage, SettingsError."""
    name = name.strip()
    if not name or len(name) > _MAX_NAME_LEN:
        raise WrongUsage(f"a preset's name has 1 to {_MAX_NAME_LEN} characters; write another")
    path.parent.mkdir(parents=True, exist_ok=True)
    with turn(path.with_name(f".{path.name}.lock")):
        known = read_presets(path)
        known.pop(name, None)
        if preset is not None:
            known[name] = preset
        atomic_write(path, msgspec.json.format(msgspec.json.encode(known)))
