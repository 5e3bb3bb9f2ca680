"""Forgetting a conversation everywhere: its text, and what the near model had computed from it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol, runtime_checkable

from edge.conversations.store import Conversations
from offload.config.places import places
from offload.egress.outbox import Outbox
from offload.engine import Engine


@runtime_checkable
class Forgetful(Protocol):
    """An engine that keeps keys and values of conversations."""

    async def forget(self, session: str) -> None:
        """Drop what is kept of a session."""
        ...


async def forget(
    conversation: str, store: Conversations, engine: Engine | None, sessions: Path
) -> None:
    """Delete a conversation, its keys and values in memory and in the folder `sessions`, and what
    of it waits for the cloud.
    """
    from engine.sessions import forget_session
    from offload.hybrid.hybrid import (
        Hybrid,  # with the whole policy: not before the chat's first prompt
    )

    near = engine.edge if isinstance(engine, Hybrid) else engine
    if isinstance(near, Forgetful):
        await near.forget(conversation)
    # Other models may have kept it too, before this one was chosen.
    await asyncio.to_thread(forget_session, sessions, conversation)
    Outbox(places().outbox).forget_session(conversation)
    store.delete(conversation)
