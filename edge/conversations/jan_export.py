"""Jan's conversations: `threads/ID/thread.json` beside `messages.jsonl`, a message a line."""

from __future__ import annotations

import msgspec

from edge.conversations.imported import (
    MAX_TURNS,
    ROLES,
    ImportedConversation,
    ImportedTurn,
    bounded,
    known_id,
    plain_title,
    seconds,
)


class _Instructed(msgspec.Struct, frozen=True):
    instructions: str | None = None


class _JanThread(msgspec.Struct, frozen=True):
    id: str
    title: str | None = None
    assistants: list[_Instructed] = []
    created: float | None = None
    updated: float | None = None


class _JanText(msgspec.Struct, frozen=True):
    value: str = ""


class _JanPart(msgspec.Struct, frozen=True):
    type: str = ""
    text: _JanText | None = None


class _JanMessage(msgspec.Struct, frozen=True):
    role: str
    content: list[_JanPart] = []
    created_at: float | None = None


def read_jan(head: bytes, messages: bytes) -> ImportedConversation | None:
    """Return one conversation, None where nothing was said. Raises ValueError, MsgspecError."""
    thread = msgspec.json.decode(head, type=_JanThread)
    lines = [line for line in messages.splitlines() if line.strip()]
    if len(lines) > MAX_TURNS:
        raise ValueError("too many turns")
    said = [msgspec.json.decode(line, type=_JanMessage) for line in lines]
    turns: list[ImportedTurn] = []
    for each in said:
        text = "\n\n".join(part.text.value for part in each.content if part.text is not None)
        if each.role in ROLES and text.strip():
            turns.append(
                ImportedTurn(
                    parent=len(turns) - 1,
                    role=each.role,  # type: ignore[arg-type]
                    content=bounded(text),
                    created_at=seconds(each.created_at),
                )
            )
    if not turns:
        return None
    return ImportedConversation(
        id=known_id("jan", thread.id),
        title=plain_title(thread.title),
        system=bounded(thread.assistants[0].instructions or "") if thread.assistants else "",
        created_at=seconds(thread.created),
        changed_at=seconds(thread.updated or thread.created),
        turns=tuple(turns),
        tip=len(turns) - 1,
    )
