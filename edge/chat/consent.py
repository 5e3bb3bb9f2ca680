"""Consent prompt: asks the first time a text may leave the device, and remembers the reply."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Literal

from backbone.terminal_text import echo, write
from offload.config.places import Places
from offload.config.settings import Settings
from offload.config.settings_sources import change_settings
from offload.egress.permission import Allowed, LivePermission
from offload.egress.preview import Preview, previewed
from offload.messages import Privacy, Request

Reply = Literal["once", "conversation", "always", "no", "never", "edit", "nobody"]
Question = Callable[[Request], Awaitable[Reply]]


class ConsentPrompt:
    """Consent prompt: asks a person, and keeps the reply: here, or for good in the settings.

    What is kept in the settings holds from there (offload/egress/permission.py), so that it can be
    changed anywhere. `here` None remembers it for this run only. `refused` is told what a person
    did not let go, before anything else is done; `edits` that they want to change it first.
    """

    def __init__(
        self,
        ask: Question,
        here: Places | None,
        *,
        refused: Callable[[Request], None] = lambda _: None,
        edits: Callable[[Request], None] = lambda _: None,
    ) -> None:
        self._ask = ask
        self._here = here
        self._refused = refused
        self._edits = edits
        self._conversations: set[str] = set()
        self._always: bool | None = None

    async def __call__(self, request: Request) -> bool:
        """Return whether this request may leave."""
        if self._always is not None:
            return self._always
        if request.session in self._conversations:
            return True
        return self._take(await self._ask(request), request)

    def _take(self, reply: Reply, request: Request) -> bool:
        if reply in ("no", "never"):
            self._refused(request)
        if reply == "edit":
            self._edits(request)
        if reply == "conversation" and request.session:
            self._conversations.add(request.session)
        if reply == "never":
            self._conversations.clear()
        if reply in ("always", "never"):
            self._keep(Privacy.CLOUD_OK if reply == "always" else Privacy.LOCAL_ONLY)
        return reply in ("once", "conversation", "always")

    def _keep(self, privacy: Privacy) -> None:
        if self._here is not None:
            change_settings(self._here.config_file, "policy", {"privacy": privacy.value})
            if LivePermission(self._here.config_file)().privacy is privacy:
                return
        # What nobody else keeps, or a variable of the process goes before.
        self._always = privacy is Privacy.CLOUD_OK


def say_rule(settings: Settings, allowed: Allowed, *, offline: bool) -> None:
    """Say on stderr which rule holds for texts of programs, where a far model is set up."""
    if settings.cloud.url and not offline:
        echo(f"nearfar: {allowed.rule()}", err=True)


def consent_at_terminal(preview: Callable[[Request], Preview]) -> Question:
    """Return what shows a person at the terminal the text that would leave, and asks them."""

    async def ask(request: Request) -> Reply:
        from edge.chat.leaving_text import leaving_lines

        shown = await previewed(preview, request)
        for line in leaving_lines(shown, whole=True):
            for text, style in line:
                write(text, sys.stderr, faint=style == "dim", strong=style == "kept")
            echo(err=True)
        reply = await asyncio.to_thread(_typed, "may it leave? [y = yes, a = always, N = no] ")
        return {"y": "once", "yes": "once", "a": "always", "always": "always"}.get(reply, "no")  # type: ignore[return-value]

    return ask


def _typed(question: str) -> str:
    """Read a line; the question goes to stderr, since stdout is the answer's."""
    echo(question, err=True, end="")
    return sys.stdin.readline().strip().lower()
