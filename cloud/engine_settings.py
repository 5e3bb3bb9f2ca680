"""Options of the engine as an operator types them: `--engine attention_backend=triton`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import msgspec

from offload.errors import SettingsError

_FLAGS = ("device", "max_model_len", "tensor_parallel_size")  # these have flags of their own
_SWITCHES = {"on": "true", "off": "false", "yes": "true", "no": "false"}


def read_settings(typed: Sequence[str]) -> dict[str, object]:
    """Return EngineOptions' fields by name, from NAME=VALUE texts.

    Raises SettingsError for an unknown name, a name given twice, or a value of another type;
    what values are allowed is checked by EngineOptions itself.
    """
    from cloud.engine.options import EngineOptions

    kinds = get_type_hints(EngineOptions)
    read: dict[str, object] = {}
    for text in typed:
        name, equals, value = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        if not equals:
            raise SettingsError(f"--engine {text} has no value; write it as NAME=VALUE")
        if name in read:
            raise SettingsError(f"--engine {name} is given twice; leave one of them out")
        read[name] = _value(name, value, kinds)
    return read


def _value(name: str, value: str, kinds: Mapping[str, Any]) -> object:
    if name in _FLAGS:
        raise SettingsError(f"--engine {name} has a flag of its own: --{name.replace('_', '-')}")
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise SettingsError(
            f"the engine has no option {name!r}{meant}; docs/cloud-engine.md lists them"
        )
    if kinds[name] is bool:
        value = _SWITCHES.get(value.lower(), value.lower())
    try:
        return msgspec.convert(value, kinds[name], strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"--engine {name}={value} does not fit: {error}") from None
