"""Past turns: what a person is shown of a conversation that goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator

from edge.conversations.attachments import apart
from edge.conversations.conversation import Conversation
from offload.thinking import split

_LINES = 12  # of the last answer


def past_turns(whole: Conversation) -> Iterator[str]:
    """Yield the title, the last question, and how its answer began."""
    title = whole.heading.title or "a conversation without a title"
    changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(whole.heading.changed_at))
    yield f"— {title} · {len(whole.turns)} turns · {changed} —"
    for turn in whole.turns[-2:]:
        if turn.role == "user":
            yield f"> {apart(turn.content).shown()}"
            continue
        lines = split(turn.content).answer.strip().splitlines() or [f"({turn.state})"]
        yield "\n".join(lines[:_LINES] + ["…"] * (len(lines) > _LINES))
        if turn.can_go_on:
            yield "this answer was not finished; /continue goes on with it"
