"""Our own export of a conversation, read again."""

from __future__ import annotations

import msgspec

from edge.conversations.conversation import Conversation
from edge.conversations.imported import (
    MAX_TURNS,
    ROLES,
    ImportedConversation,
    ImportedTurn,
    bounded,
    is_id,
    known_id,
    plain_title,
    seconds,
)


def read_own(row: bytes | msgspec.Raw) -> ImportedConversation | None:
    """Return one conversation, None where nothing was said. Raises ValueError, MsgspecError."""
    whole = msgspec.json.decode(row, type=Conversation)
    if len(whole.turns) + len(whole.others) > MAX_TURNS:
        raise ValueError("too many turns")
    numbers: dict[int, int] = {}
    turns: list[ImportedTurn] = []
    for turn in sorted((*whole.turns, *whole.others), key=lambda each: each.id):
        parent = numbers.get(turn.parent, -1)
        if turn.role not in ROLES or not turn.content.strip():
            numbers[turn.id] = parent
            continue
        turns.append(
            ImportedTurn(
                parent=parent,
                role=turn.role,  # type: ignore[arg-type]
                content=bounded(turn.content),
                created_at=seconds(turn.created_at),
            )
        )
        numbers[turn.id] = len(turns) - 1
    if not turns:
        return None
    return ImportedConversation(
        id=whole.heading.id if is_id(whole.heading.id) else known_id("nearfar", whole.heading.id),
        title=plain_title(whole.heading.title),
        system=bounded(whole.system),
        created_at=seconds(whole.heading.created_at),
        changed_at=seconds(whole.heading.changed_at),
        turns=tuple(turns),
        tip=numbers[whole.turns[-1].id] if whole.turns else len(turns) - 1,
    )
