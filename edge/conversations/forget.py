"""Forgetting of a conversation: its text, and the KV cache that was computed from it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from edge.conversations.store import Conversations
from offload.config.places import places
from offload.egress.outbox import Outbox
from offload.engine import Engine, SessionKeeping


def discard(conversation: str, store: Conversations) -> None:
    """Put a conversation into the trash; what of it waits for the cloud is not asked any more."""
    store.read(conversation)  # an unknown one is told
    Outbox(places().outbox).forget_session(conversation)
    store.trash.put(conversation)


def erase(conversations: Sequence[str], store: Conversations, sessions: Path) -> None:
    """Forget conversations for good, where no engine runs."""
    for each in conversations:
        asyncio.run(forget(each, store, None, sessions))


async def forget(
    conversation: str, store: Conversations, engine: Engine | None, sessions: Path
) -> None:
    """Delete a conversation, its documents, its KV cache (also in `sessions`), and its outbox."""
    from engine.sessions import forget_session

    if isinstance(engine, SessionKeeping):
        await engine.forget(conversation)
    # Other models may have kept it too, before this one was chosen.
    await asyncio.to_thread(forget_session, sessions, conversation)
    Outbox(places().outbox).forget_session(conversation)
    for path in map(Path, store.documents(conversation)):
        if places().attached in path.parents:  # dropped on the page, and kept for this alone
            shutil.rmtree(path.parent, ignore_errors=True)
    store.delete(conversation)
