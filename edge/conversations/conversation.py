"""Conversation types: heading and turns, what a model reads of them, and their export."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal

import msgspec

from edge.conversations.attachments import with_note
from edge.conversations.versions import Tree
from offload.messages import (
    MAX_PICTURES,
    Finish,
    Message,
    Picture,
    PictureType,
    Privacy,
    Role,
    ToolCall,
)
from offload.reasons import sentence
from offload.thinking import split

State = Literal["whole", "writing", "stopped", "failed", "interrupted"]

# A conversation's turns are those that are shown, of all its versions.
# UNION, not UNION ALL: it ends where a damaged file leads round in a circle.
HEADINGS = (
    "SELECT c.*, (WITH RECURSIVE shown (id, parent) AS ("
    "SELECT id, parent FROM turn WHERE id = c.tip UNION "
    "SELECT t.id, t.parent FROM turn t JOIN shown ON t.id = shown.parent) "
    "SELECT count(*) FROM shown) AS num_turns "
    "FROM (SELECT * FROM conversation WHERE deleted_at = 0) c"
)


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """Heading of a conversation as a list shows it; times are seconds since the epoch."""

    id: str
    title: str
    created_at: float
    changed_at: float
    num_turns: int = 0
    pinned: bool = False


class LaterAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Later answer: a better one, kept beside the first."""

    content: str
    finish: Finish


class StoredPicture(msgspec.Struct, frozen=True, kw_only=True):
    """Picture of a question; its bytes are read only where they are asked for."""

    id: int
    media_type: PictureType
    data: bytes = b""

    def shown(self) -> Picture:
        """Return it as a model sees it."""
        return Picture(media_type=self.media_type, data=self.data)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Turn of a conversation; `finish` is how an answer ended, with its route and usage.

    `waiting` is its id in the outbox while the cloud is to be asked again. `privacy` is its class,
    local_only also where its person did not let it go: such a turn never leaves. `parent` is the
    turn before it, and `versions` are all that stand behind that one, itself among them, where
    there are several. `calls` are those that an answer makes, and of a turn of role tool the one
    that it answers.
    """

    id: int
    parent: int = 0
    versions: tuple[int, ...] = ()
    role: Role
    content: str
    state: State
    source: str = ""
    created_at: float = 0.0
    finish: Finish | None = None
    waiting: str = ""
    better: LaterAnswer | None = None
    privacy: Privacy = Privacy.ASK
    calls: tuple[ToolCall, ...] = ()
    pictures: tuple[StoredPicture, ...] = ()

    @property
    def can_go_on(self) -> bool:
        """Whether this is an answer that was stopped, cut off or interrupted in its text."""
        cut = self.finish is not None and self.finish.reason == "length"
        broken = self.state in ("stopped", "interrupted", "failed")
        return self.role == "assistant" and bool(self.content.strip()) and (cut or broken)


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A whole conversation: the turns that are shown, and `others`, of versions that are not.

    `privacy` is the class of its system prompt.
    """

    heading: Heading
    system: str = ""
    turns: tuple[Turn, ...] = ()
    others: tuple[Turn, ...] = ()
    privacy: Privacy = Privacy.ASK

    def messages(self) -> tuple[Message, ...]:
        """Return what a model should read: answers that failed before a word are left out.

        Questions without an answer between them become one, since models know turns by turns.
        """
        system = [_message("system", self.system, self.privacy)] if self.system else []
        said = map(_of_turn, self.turns, (*self.turns[1:], None))
        turns = _by_turns(each for each in said if _says_something(each))
        return with_note((*system, *turns))


def _by_turns(said: Iterable[Message]) -> list[Message]:
    """Return messages whose roles alternate: those of one role in a row are joined, and stay on the
    device where one of them does.
    """

    def alike(message: Message) -> tuple[str, str | None]:
        return message.role, message.tool_call_id  # each result of a tool stands for itself

    rows = (tuple(messages) for _, messages in groupby(said, key=alike))
    return [
        msgspec.structs.replace(
            row[0],
            content="\n\n".join(message.content for message in row if message.content),
            tool_calls=tuple(call for message in row for call in message.tool_calls),
            pictures=tuple(each for message in row for each in message.pictures)[-MAX_PICTURES:],
            stays=any(message.stays for message in row),
        )
        for row in rows
    ]


def _message(role: Role, content: str, privacy: Privacy) -> Message:
    thought, answer = split(content) if role == "assistant" else ("", content)
    stays = privacy is Privacy.LOCAL_ONLY
    return Message(role=role, content=answer, reasoning=thought, stays=stays)


def _says_something(message: Message) -> bool:
    calls = bool(message.tool_calls or message.tool_call_id)
    return bool(message.content.strip() or message.pictures) or calls


def _of_turn(turn: Turn, behind: Turn | None) -> Message:
    """Return a turn as a model reads it; a call that nothing answered, as it was stopped, is left
    out: models and servers want an answer to each.
    """
    message = _message(turn.role, turn.content, turn.privacy)
    if turn.role == "tool":
        return msgspec.structs.replace(message, tool_call_id=turn.calls[0].id)
    pictures = tuple(each.shown() for each in turn.pictures if each.data)
    message = msgspec.structs.replace(message, pictures=pictures)
    is_answered = behind is not None and behind.role == "tool"
    return msgspec.structs.replace(message, tool_calls=turn.calls) if is_answered else message


def conversation_of(
    row: sqlite3.Row, turns: Iterable[sqlite3.Row], pictures: Iterable[sqlite3.Row] = ()
) -> Conversation:
    """Return a conversation by its row of HEADINGS, and all rows of its turns and pictures."""
    found = {turn.id: turn for turn in map(turn_of, turns)}
    for one in pictures:
        stored = StoredPicture(id=one["id"], media_type=one["media_type"], data=one["data"])
        turn = found[one["turn"]]
        found[turn.id] = msgspec.structs.replace(turn, pictures=(*turn.pictures, stored))
    tree = Tree(found.values())
    for each in found:
        if len(versions := tree.siblings(each)) > 1:
            found[each] = msgspec.structs.replace(found[each], versions=tuple(versions))
    shown = tree.path(row["tip"])
    return Conversation(
        heading=heading_of(row),
        system=row["system"],
        turns=tuple(found[each] for each in shown),
        others=tuple(turn for each, turn in found.items() if each not in set(shown)),
        privacy=Privacy(row["privacy"]),
    )


def heading_of(row: sqlite3.Row) -> Heading:
    """Return the heading in a row of HEADINGS."""
    names = ("id", "title", "created_at", "changed_at", "num_turns")
    return Heading(**{name: row[name] for name in names}, pinned=bool(row["pinned"]))


def turn_of(row: sqlite3.Row) -> Turn:
    """Return the turn in a row of its table."""
    finish = msgspec.json.decode(row["finish"], type=Finish) if row["finish"] else None
    better = msgspec.json.decode(row["better"], type=LaterAnswer) if row["better"] else None
    names = ("id", "parent", "role", "content", "state", "source", "created_at", "waiting")
    privacy = Privacy(row["privacy"])
    columns = {name: row[name] for name in names}
    calls = msgspec.json.decode(row["calls"], type=tuple[ToolCall, ...])
    return Turn(**columns, finish=finish, better=better, privacy=privacy, calls=calls)


Format = Literal["markdown", "json"]
_WHO = {"user": "You", "assistant": "nearfar", "system": "System", "tool": "Tool"}


def export(conversation: Conversation, form: Format) -> str:
    """Return the whole conversation as Markdown or as one JSON document."""
    if form == "json":
        return msgspec.json.format(msgspec.json.encode(conversation), indent=2).decode() + "\n"
    return _markdown(conversation)


def export_all(conversations: Iterable[Conversation]) -> Iterator[str]:
    """Yield one JSON document with all conversations, which can be imported again, piece by piece.

    They are as `export` writes them; one alone is in memory at a time.
    """
    before = "[\n"
    for each in conversations:
        yield before + export(each, "json").rstrip()
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _markdown(conversation: Conversation) -> str:
    heading = conversation.heading
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(heading.created_at))
    parts = [f"# {heading.title or 'Conversation'}", f"*{began}*"]
    if conversation.system:
        parts.append(f"> {conversation.system}".replace("\n", "\n> "))
    for turn in conversation.turns:
        parts += _section(turn)
    if conversation.others:
        parts.append("# Other versions")
    for turn in conversation.others:
        parts += _section(turn)
    return "\n\n".join(parts) + "\n"


def _section(turn: Turn) -> list[str]:
    parts = [f"## {_who(turn)}", *(f"*{each.media_type}*" for each in turn.pictures)]
    parts.append(turn.content.strip() or f"*{turn.state}*")
    if turn.better is not None:
        parts += ["### A better answer, from the far model, later", turn.better.content.strip()]
    return parts


def _who(turn: Turn) -> str:
    route = turn.finish.route if turn.finish else None
    details = []
    if route is not None:
        side = "near" if route.served_by == "edge" else "far"
        who = f"{side}, {route.model}" if route.model else side
        details.append(f"{who}: {sentence(route.reason, route.confidence)}")
    if turn.versions:
        details.append(f"version {turn.versions.index(turn.id) + 1} of {len(turn.versions)}")
    return f"{_WHO[turn.role]} ({'; '.join(details)})" if details else _WHO[turn.role]
