"""The chat templates of a Hugging Face folder: the default one, and those with names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.error_causes import cause
from backbone.errors import CheckpointError

DEFAULT, TOOL_USE = "default", "tool_use"


def read_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return templates by name; `settings` is what tokenizer_config.json says.

    A file of its own goes before the settings, as in transformers. Raises CheckpointError.
    """
    found = _of_settings(settings.get("chat_template"))
    for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
        found[path.stem] = _text(path)
    if (alone := folder / "chat_template.jinja").is_file():
        found[DEFAULT] = _text(alone)
    return found


def chosen(templates: Mapping[str, str], *, tools: bool) -> str | None:
    """Return the template of a conversation, with tools or without; None where there is none."""
    if tools and TOOL_USE in templates:
        return templates[TOOL_USE]
    return templates.get(DEFAULT)


def _of_settings(given: object) -> dict[str, str]:
    if isinstance(given, str):
        return {DEFAULT: given}
    named = given if isinstance(given, list) else []
    rows = ((row.get("name"), row.get("template")) for row in named if isinstance(row, dict))
    return {name: text for name, text in rows if isinstance(name, str) and isinstance(text, str)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({cause(error)}); fetch it again") from None
