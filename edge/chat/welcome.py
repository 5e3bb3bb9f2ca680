"""Welcome text of `nearfar` without a command: what works already, and the next step."""

from __future__ import annotations

from edge.models.local_models import list_models
from offload.config.places import Places, places
from offload.config.settings_reading import load
from offload.errors import SettingsError


def greeting() -> str:
    """Return a few lines for this device as it is now."""
    here = places()
    return "\n".join(
        [
            "nearfar runs a language model on this device, and asks a far one only when that pays.",
            "",
            "It works now, with no network:",
            '  nearfar ask "What is 17 + 25?" --why     one answer, and who gave it',
            "  nearfar chat                             a conversation, kept on this device",
            "  nearfar assistant                        the same as a page in your browser",
            "",
            *_next(here),
            "",
            "nearfar doctor looks at this device; nearfar --help shows every command.",
        ]
    )


def _next(here: Places) -> list[str]:
    own = [each.name for each in list_models(here.models) if not each.embedded]
    if own:
        lines = [f"Models here: {', '.join(own[:4])}", f"  nearfar chat -m {own[0]}"]
    else:
        lines = [
            "The model that ships is a demonstration. For real questions, fetch one:",
            "  nearfar models list --all                what fits this device",
            "  nearfar models pull qwen3:1.7b",
        ]
    return [*lines, *_cloud(here)]


def _cloud(here: Places) -> list[str]:
    try:
        url = load(here.config_file).cloud.url
    except SettingsError as error:
        return [f"Something is wrong: {error}"]
    if url:
        return [f"A cloud is set up at {url}; `nearfar link ping` reaches it."]
    return ["No cloud is set up, and none is needed; `nearfar link join` adds one."]
