"""A conversation as a file: Markdown to read, JSON to work with."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from edge.conversations.conversation import Conversation, Turn
from offload.reasons import sentence

Format = Literal["markdown", "json"]
_WHO = {"user": "You", "assistant": "nearfar", "system": "System", "tool": "Tool"}


def export(conversation: Conversation, form: Format) -> str:
    """Return the whole conversation as Markdown or as one JSON document."""
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(conversation), indent=2).decode() + "\n"
    return _markdown(conversation)


def _markdown(conversation: Conversation) -> str:
    heading = conversation.heading
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(heading.created_at))
    parts = [f"# {heading.title or 'Conversation'}", f"*{began}*"]
    if conversation.system:
        parts.append(f"> {conversation.system}".replace("\n", "\n> "))
    for turn in conversation.turns:
        parts += [f"## {_who(turn)}", turn.content.strip() or f"*{turn.state}*"]
        if turn.better is not None:
            parts += ["### A better answer, from the far model, later", turn.better.content.strip()]
    return "\n\n".join(parts) + "\n"


def _who(turn: Turn) -> str:
    route = turn.finish.route if turn.finish else None
    if route is None:
        return _WHO[turn.role]
    side = "near" if route.served_by == "edge" else "far"
    return f"{_WHO[turn.role]} ({side}: {sentence(route.reason, route.confidence)})"
