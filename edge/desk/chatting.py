"""From the flags of `nearfar chat` to a conversation: which screen, which engine, which past."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge.desk.asking import Ask
from edge.desk.bettering import Bettering
from edge.desk.chat import HELP, Chat
from edge.desk.consent import Consent, Question, Reply, chosen_privacy, size_of
from edge.desk.conversations import Conversations
from edge.desk.dialogue import Manner
from edge.desk.near import Choice, open_hybrid
from edge.desk.screen import PlainScreen, Screen
from edge.desk.status import status
from offload.engine import Engine
from offload.messages import Privacy, Request
from offload.outbox import Outbox
from offload.places import Places, places
from offload.settings import Settings

_REPLIES: dict[str, tuple[Reply, str]] = {
    "y": ("once", "this message may"),
    "c": ("conversation", "all of this conversation may"),
    "a": ("always", "always, and do not ask again"),
    "v": ("never", "never, and do not ask again"),
    "n": ("no", "not this one; answer near"),
}


@dataclass(frozen=True, kw_only=True)
class Past:
    """Which conversation to go on with, and whether this one is kept."""

    latest: bool = False
    resume: str | None = None
    keep: bool = True

    def choose(self, store: Conversations) -> str | None:
        """Return the id to go on with, None for a new one. Raises RequestError."""
        if self.resume is not None:
            return store.find(self.resume)
        return store.latest() if self.latest else None


def chat_on(wish: Ask, past: Past, first: str, *, as_json: bool) -> None:
    """Carry on a conversation until the person leaves."""
    settings, here = wish.settings(), places()
    store = Conversations(here.conversations if past.keep else None)
    try:
        asyncio.run(_Desk(wish, settings, here, store).run(past, first, as_json=as_json))
    finally:
        store.close()


class _Desk:
    """What one run of the chat holds together."""

    def __init__(self, wish: Ask, settings: Settings, here: Places, store: Conversations) -> None:
        self._wish, self._settings, self._here, self._store = wish, settings, here, store
        self._chat: Chat | None = None

    async def run(self, past: Past, first: str, *, as_json: bool) -> None:
        conversation = past.choose(self._store)
        outbox = self._outbox(past)
        screen = self._screen(as_json=as_json)
        chat = Chat(
            self._open(self._settings, screen),
            screen,
            self._store,
            manner=Manner(privacy=self._privacy(), sampling=self._wish.sampling(), outbox=outbox),
            system=self._wish.system or "",
            conversation=conversation,
            reopen=lambda name: self._open(self._with_model(name), screen),
            bettering=Bettering(outbox, self._store) if outbox else None,
        )
        chat.files = list(self._wish.files)
        self._chat = chat
        if sys.stdin.isatty() and not as_json:
            screen.remark(f"{chat.engine.card().name} · {HELP}")
        try:
            await chat.run(first)
        finally:
            await chat.engine.aclose()

    def _outbox(self, past: Past) -> Outbox | None:
        if not self._settings.cloud.url:
            return None
        # What is not kept is not written down to wait either.
        return Outbox(self._here.outbox if past.keep else None)

    def _screen(self, *, as_json: bool) -> Screen:
        if as_json or not can_draw(os.environ):
            return PlainScreen(as_json=as_json)
        from edge.desk.rich_screen import RichScreen, model_names

        return RichScreen(
            status=self._status,
            questions=self._store.questions(),
            models=lambda: model_names(self._here.models),
        )

    def _open(self, settings: Settings, screen: Screen) -> Engine:
        choice = Choice(offline=self._wish.offline, consent=Consent(_asker(screen), self._here))
        return open_hybrid(settings, self._here, choice)

    def _with_model(self, name: str) -> Settings:
        return replace(self._settings, edge=replace(self._settings.edge, model=name))

    def _privacy(self) -> Privacy:
        # Nobody can be asked through a pipe: what the settings say holds there.
        asked = chosen_privacy(self._settings, self._here)
        return self._wish.privacy(
            replace(self._settings, policy=replace(self._settings.policy, privacy=asked))
            if sys.stdin.isatty()
            else self._settings
        )

    def _status(self) -> str:
        return status(self._chat.engine, self._chat.last) if self._chat else ""


def can_draw(environment: Mapping[str, str]) -> bool:
    """Whether both ends are a terminal that can move its cursor."""
    both = sys.stdin.isatty() and sys.stdout.isatty()
    return both and environment.get("TERM", "dumb") not in ("dumb", "unknown", "")


def _asker(screen: Screen) -> Question:
    async def ask(request: Request) -> Reply:
        question = f"May this conversation ({size_of(request):,} bytes) go to the cloud?"
        reply = await screen.choose(question, {key: told for key, (_, told) in _REPLIES.items()})
        return _REPLIES[reply][0]

    return ask
