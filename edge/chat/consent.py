"""Consent prompt: asks the first time a text may leave the device, and remembers the reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from offload.config.places import Places
from offload.config.settings_sources import change_settings
from offload.egress.permission import LivePermission
from offload.egress.privacy.shareable_part import part_that_leaves
from offload.messages import Privacy, Request

Reply = Literal["once", "conversation", "always", "no", "never", "nobody"]
Question = Callable[[Request], Awaitable[Reply]]


class ConsentPrompt:
    """Consent prompt: asks a person, and keeps the reply: here, or for good in the settings.

    What is kept in the settings holds from there (offload/egress/permission.py), so that it can be
    changed anywhere. `here` None remembers it for this run only. `refused` is told what a person
    did not let go, before anything else is done.
    """

    def __init__(
        self,
        ask: Question,
        here: Places | None,
        *,
        refused: Callable[[Request], None] = lambda _: None,
    ) -> None:
        self._ask = ask
        self._here = here
        self._refused = refused
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


def size_of(request: Request) -> int:
    """Return how many bytes of text a request would carry away: the whole conversation."""
    leaves, _ = part_that_leaves(request)
    texts = [leaves.prompt or "", *(message.content for message in leaves.messages)]
    return sum(len(text.encode()) for text in texts)


async def consent_at_terminal(request: Request) -> Reply:
    """Ask the person whether this text may leave the device."""
    size = size_of(request)
    question = f"May this text ({size} bytes) leave the device for the far model? [y/N] "
    reply = await asyncio.to_thread(input, question)
    return "once" if reply.strip().lower() in ("y", "yes") else "no"
