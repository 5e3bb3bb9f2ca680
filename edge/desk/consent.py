"""Whether text may leave the device: asked the first time, remembered as long as a person said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from offload.messages import Privacy, Request
from offload.places import Places
from offload.settings import Settings
from offload.settings_file import change_settings
from offload.settings_reading import is_said

Reply = Literal["once", "conversation", "always", "no", "never"]
Question = Callable[[Request], Awaitable[Reply]]


def chosen_privacy(settings: Settings, here: Places) -> Privacy:
    """Return the privacy class a person has set; without a word from them, it is to ask."""
    if is_said(here.config_file, "policy", "privacy"):
        return settings.policy.privacy
    return Privacy.ASK


class Consent:
    """Asks a person, and keeps what they said: for a conversation here, for good in the settings.

    `here` None remembers nothing for good.
    """

    def __init__(self, ask: Question, here: Places | None) -> None:
        self._ask = ask
        self._here = here
        self._conversations: set[str] = set()
        self._always: bool | None = None
        self._last: tuple[str, bool] | None = None

    async def __call__(self, request: Request) -> bool:
        """Return whether this request may leave."""
        if self._always is not None:
            return self._always
        if request.session in self._conversations:
            return True
        # One request may be asked about at several doors; a person is asked once.
        if self._last is None or self._last[0] != request.id:
            self._last = request.id, self._take(await self._ask(request), request)
        return self._last[1]

    def _take(self, reply: Reply, request: Request) -> bool:
        if reply == "conversation" and request.session:
            self._conversations.add(request.session)
        if reply in ("always", "never"):
            self._always = reply == "always"
            self._keep(Privacy.CLOUD_OK if self._always else Privacy.LOCAL_ONLY)
        return reply in ("once", "conversation", "always")

    def _keep(self, privacy: Privacy) -> None:
        if self._here is not None:
            change_settings(self._here.config_file, "policy", {"privacy": privacy.value})


def size_of(request: Request) -> int:
    """Return how many bytes of text a request would carry away: the whole conversation."""
    texts = [request.prompt or "", *(message.content for message in request.messages)]
    return sum(len(text.encode()) for text in texts)
