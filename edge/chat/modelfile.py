"""Modelfile: ollama's description of a model with a persona, read as a preset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from backbone.errors import cause
from edge.chat.presets import Preset
from offload.errors import RequestError

_WORDS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES")
_LINE = re.compile(rf"\s*({'|'.join(_WORDS)})\s+(.*)", re.IGNORECASE | re.DOTALL)
_NUMBERS: dict[str, tuple[str, type[int] | type[float]]] = {
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "min_p": ("min_p", float),
    "repeat_penalty": ("repetition_penalty", float),
    "seed": ("seed", int),
    "num_predict": ("max_tokens", int),
}


class ReadModelfile(NamedTuple):
    """A Modelfile as a preset, and what of it a preset cannot hold."""

    preset: Preset
    left_out: list[str]


def read_modelfile(path: Path) -> ReadModelfile:
    """Return a Modelfile's preset. Raises RequestError where it cannot be read as one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read ({cause(error)}); name a Modelfile") from None
    return parse_modelfile(text, path.parent)


def parse_modelfile(text: str, folder: Path) -> ReadModelfile:
    """Return the preset of a Modelfile's text; a file behind FROM lies in `folder`."""
    values: dict[str, Any] = {}
    stops: list[str] = []
    left_out: list[str] = []
    for word, said in _instructions(text):
        if word == "FROM":
            values["model"] = _model(said, folder)
        elif word == "SYSTEM":
            values["system"] = said
        elif word == "PARAMETER":
            name, _, value = said.partition(" ")
            if name.lower() == "stop":
                stops.append(_unquoted(value.strip()))
            elif not _take_number(name.lower(), value.strip(), values):
                left_out.append(f"PARAMETER {name}")
        elif word != "LICENSE":
            left_out.append(word)
    if "model" not in values:
        raise RequestError("it has no FROM; every Modelfile names a model")
    return ReadModelfile(Preset(stop=tuple(stops), **values), list(dict.fromkeys(left_out)))


def _take_number(name: str, written: str, values: dict[str, Any]) -> bool:
    """Take a parameter that a preset has; return whether there is one."""
    if name not in _NUMBERS:
        return False
    field, kind = _NUMBERS[name]
    try:
        number = kind(written)
    except ValueError:
        raise RequestError(f"PARAMETER {name} is {written!r}; it must be a number") from None
    if field != "max_tokens" or number > 0:  # -1 is no limit, -2 as many as fit
        values[field] = number
    return True


def _model(said: str, folder: Path) -> str:
    """Return a model's name; one that is a file beside the Modelfile as its whole path."""
    path = folder / Path(said).expanduser()
    return str(path.absolute()) if path.exists() else said


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield each instruction with what it says, of one line or between triple quotes."""
    lines = iter(text.splitlines())
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            if line.strip() and not line.lstrip().startswith("#"):
                raise RequestError(f"{line.strip()[:60]!r} is no instruction; name a Modelfile")
            continue
        word, said = found[1].upper(), found[2].strip()
        if said.startswith('"""'):
            said = _quoted(said[3:], lines, word)
        yield word, said if word == "PARAMETER" else _unquoted(said)


def _quoted(first: str, lines: Iterator[str], word: str) -> str:
    said = [first]
    while '"""' not in said[-1]:
        line = next(lines, None)
        if line is None:
            raise RequestError(f'the """ behind {word} is never closed; close it')
        said.append(line)
    return "\n".join(said).partition('"""')[0].strip()


def _unquoted(said: str) -> str:
    whole = len(said) >= 2 and said[0] == said[-1] == '"'
    return said[1:-1] if whole else said
