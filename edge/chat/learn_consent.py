"""Consent to learning, asked at a terminal once: after the first far answer that a person saw."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from backbone.terminal_text import echo
from offload.config.settings_reading import load
from offload.config.settings_sources import change_settings
from offload.messages import Finish

Choose = Callable[[str, Mapping[str, str]], Awaitable[str]]

QUESTION = (
    "May nearfar learn from far answers when to ask? It keeps numbers on this device, no texts "
    "(`nearfar policy forget` deletes them), and asks one sure answer in ten far, too."
)
_CHOICES = {"y": "yes", "n": "no"}


async def settle_learning(finish: Finish, config: Path, choose: Choose) -> None:
    """Ask whether to learn, where that was never said, and keep the reply in the settings file.

    Not asked where texts are kept private, nor before a far answer has come. Raises SettingsError
    where the file cannot be read or written.
    """
    far = finish.route is not None and finish.route.served_by == "cloud"
    if not far or not load(config).policy.asks_to_learn:
        return
    reply = await choose(QUESTION, _CHOICES)
    change_settings(config, "policy", {"learn": "on" if reply == "y" else "off"})


async def choose_at_terminal(question: str, choices: Mapping[str, str]) -> str:
    """Ask at the terminal; the last choice is meant where the reply is none of them."""
    offered = ", ".join(f"{key} = {words}" for key, words in choices.items())
    echo(f"{question} [{offered}] ", err=True, end="")
    sys.stderr.flush()
    line = await asyncio.to_thread(sys.stdin.readline)
    reply = line.strip().lower()
    return reply if reply in choices else list(choices)[-1]
