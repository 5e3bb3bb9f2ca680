"""ChatGPT's export: `conversations.json`, a list of trees of messages.

A node names its parent; `current_node` is the end of the path that was shown last. Messages of the
system and of tools, and hidden ones, are left out, and those behind them follow the one before.
"""

from __future__ import annotations

from typing import Any

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


class _Author(msgspec.Struct, frozen=True):
    role: str = ""


class _Content(msgspec.Struct, frozen=True):
    content_type: str = ""
    parts: list[Any] | None = None
    text: str | None = None


class _Metadata(msgspec.Struct, frozen=True):
    is_visually_hidden_from_conversation: bool | None = None


class _Said(msgspec.Struct, frozen=True):
    author: _Author
    content: _Content
    create_time: float | None = None
    metadata: _Metadata = _Metadata()


class _Node(msgspec.Struct, frozen=True):
    message: _Said | None = None
    parent: str | None = None


class _ChatGpt(msgspec.Struct, frozen=True):
    mapping: dict[str, _Node]
    title: str | None = None
    create_time: float | None = None
    update_time: float | None = None
    current_node: str | None = None
    conversation_id: str | None = None
    id: str | None = None


def read_chatgpt(row: bytes | msgspec.Raw) -> ImportedConversation | None:
    """Return one conversation, None where nothing was said. Raises ValueError, MsgspecError."""
    whole = msgspec.json.decode(row, type=_ChatGpt)
    if len(whole.mapping) > MAX_TURNS:
        raise ValueError("too many turns")
    numbers: dict[str, int] = {}  # of each node: the last turn on its path that is kept
    turns: list[ImportedTurn] = []
    for name in _from_the_root(whole.mapping):
        node = whole.mapping[name]
        parent = numbers.get(node.parent or "", -1)
        text = _text_of(node.message)
        if node.message is None or not text:
            numbers[name] = parent
            continue
        role = node.message.author.role
        if role not in ROLES:
            numbers[name] = parent
            continue
        turns.append(
            ImportedTurn(
                parent=parent,
                role=role,  # type: ignore[arg-type]
                content=bounded(text),
                created_at=seconds(node.message.create_time),
            )
        )
        numbers[name] = len(turns) - 1
    if not turns:
        return None
    source = whole.conversation_id or whole.id or f"{whole.title} {whole.create_time}"
    return ImportedConversation(
        id=known_id("chatgpt", source),
        title=plain_title(whole.title),
        created_at=seconds(whole.create_time),
        changed_at=seconds(whole.update_time or whole.create_time),
        turns=tuple(turns),
        tip=max(0, numbers.get(whole.current_node or "", len(turns) - 1)),
    )


def _from_the_root(nodes: dict[str, _Node]) -> list[str]:
    """Return the nodes, each behind its parent; those that lead round in a circle are left out."""
    children: dict[str, list[str]] = {}
    roots = []
    for name, node in nodes.items():
        if node.parent is None or node.parent not in nodes:
            roots.append(name)
        else:
            children.setdefault(node.parent, []).append(name)
    ordered, waiting = [], roots[::-1]
    while waiting:
        name = waiting.pop()
        ordered.append(name)
        waiting += children.get(name, [])[::-1]
    return ordered


def _text_of(said: _Said | None) -> str:
    """Return the words of a message; a picture or a file in it is only named."""
    if said is None or said.metadata.is_visually_hidden_from_conversation:
        return ""
    if said.content.content_type not in ("text", "multimodal_text", "code"):
        return ""
    parts = said.content.parts if said.content.parts is not None else [said.content.text or ""]
    words = [each if isinstance(each, str) else _named(each) for each in parts]
    return "\n\n".join(word for word in words if word.strip())


def _named(part: Any) -> str:
    kind = part.get("content_type", "") if isinstance(part, dict) else ""
    return "[image]" if "image" in str(kind) else "[attachment]"
