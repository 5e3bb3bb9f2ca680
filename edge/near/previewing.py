"""Previewing: what would leave for the far model that is set up, by the rules that hold now."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from offload.config.places import Places
from offload.config.settings_reading import load
from offload.egress.preview import Preview, preview
from offload.engine import Engine
from offload.hybrid.hybrid import Hybrid
from offload.messages import Request


def previewer(
    here: Places, engine: Callable[[], Engine | None] = lambda: None
) -> Callable[[Request], Preview]:
    """Return what makes previews; `engine` knows the far model's name once it was reached."""
    return partial(_preview, here, engine)


def _preview(here: Places, engine: Callable[[], Engine | None], request: Request) -> Preview:
    settings, now = load(here.config_file), engine()
    return preview(
        request,
        settings.privacy.rules(),
        endpoint=settings.cloud.url,
        model=now.far_name() if isinstance(now, Hybrid) else "",
    )
