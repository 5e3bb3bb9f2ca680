"""Slash commands about what was said: versions, taking back, going on, finding and deleting."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backbone.file_names import name_of
from backbone.files import expanded
from edge.conversations.attachments import apart
from edge.conversations.conversation import Turn, export
from edge.conversations.forget import discard
from edge.conversations.trash import KEPT_S
from offload.errors import RequestError
from offload.messages import Side
from offload.thinking import split

if TYPE_CHECKING:
    from edge.chat.chat import Chat

_WIDTH = 70  # of a version, in the list of them


async def answer_again(chat: Chat, forced: Side | None) -> None:
    """Answer the last question once more; the answers that it has are kept."""
    conversation = _current(chat)
    before = chat.store.versions.tip(conversation)
    if chat.store.versions.unanswer(conversation) is None:
        raise RequestError("there is nothing to answer again; ask something first")
    await chat.answer(forced, before=before)


async def edit(chat: Chat, rest: str) -> None:
    conversation = _current(chat)
    if not rest:
        raise RequestError("write the question in other words: /edit TEXT")
    before = chat.store.versions.tip(conversation)
    if chat.store.versions.undo(conversation) is None:
        raise RequestError("there is no question to change; ask something first")
    await chat.ask(rest, before=before)


async def undo(chat: Chat, _: str) -> None:
    gone = chat.store.versions.undo(_current(chat))
    if gone is None:
        raise RequestError("there is nothing to take back; ask something first")
    chat.explanation = ""
    chat.screen.remark(f"taken back: {_short(gone)}; /redo brings it back")


async def redo(chat: Chat, _: str) -> None:
    if not chat.store.versions.redo(_current(chat)):
        raise RequestError("nothing was taken back here; /versions lists what was asked otherwise")
    chat.show_past()


async def versions(chat: Chat, rest: str) -> None:
    conversation = _current(chat)
    ends = chat.store.versions.ends(conversation)
    if rest:
        if not (rest.isdecimal() and 1 <= int(rest) <= len(ends)):
            raise RequestError(f"there is no version {rest!r}; /versions lists all {len(ends)}")
        chat.store.versions.choose(conversation, ends[int(rest) - 1])
        chat.show_past()
        return
    whole = chat.store.read(conversation)
    turns = {turn.id: turn for turn in (*whole.turns, *whole.others)}
    shown = chat.store.versions.tip(conversation)
    for number, end in enumerate(ends, 1):
        mark = "*" if end == shown else " "
        chat.screen.remark(f"{mark} {number}/{len(ends)}  {_told(turns, turns[end])}")
    if len(ends) > 1:
        chat.screen.remark("/versions N shows another one")


def _told(turns: dict[int, Turn], end: Turn) -> str:
    asked = turns.get(end.parent) if end.role == "assistant" else end
    question = _short(asked.content) if asked else ""
    answer = _short(split(end.content).answer) if end.role == "assistant" else "not answered"
    return f"{question} -> {answer}"


def _short(text: str) -> str:
    line = next((line.strip() for line in apart(text).question.splitlines() if line.strip()), "")
    return line if len(line) <= _WIDTH // 2 else f"{line[: _WIDTH // 2 - 1].rstrip()}…"


async def go_on(chat: Chat, _: str) -> None:
    before = chat.store.versions.tip(_current(chat))
    await chat.answer(before=before, resume=True)


async def copy(chat: Chat, rest: str) -> None:
    """Copy the last answer, or with `code` what stands in its code blocks."""
    turns = chat.store.read(_current(chat)).turns
    answers = [split(turn.content).answer.strip() for turn in turns if turn.role == "assistant"]
    if not answers:
        raise RequestError("there is no answer to copy; ask something first")
    blocks = _code_blocks(answers[-1])
    if rest == "code" and not blocks:
        raise RequestError("the last answer has no code; /copy copies all of it")
    text = "\n".join(blocks) if rest == "code" else answers[-1]
    if not chat.screen.copy(text):
        raise RequestError("only a terminal has a clipboard; /save writes to a file")
    chat.screen.remark(f"copied {len(text):,} characters, if your terminal allows it (OSC 52)")


def _code_blocks(markdown: str) -> list[str]:
    """Return the text of each fenced block that is closed."""
    blocks: list[str] = []
    fence, code = "", list[str]()
    for line in markdown.split("\n"):
        if fence and line.startswith(fence):
            blocks.append("\n".join(code))
            fence = ""
        elif fence:
            code.append(line)
        elif line.startswith("```"):
            fence, code = line[: len(line) - len(line.lstrip("`"))], []
    return blocks


async def save(chat: Chat, rest: str) -> None:
    whole = chat.store.read(_current(chat))
    named = name_of(whole.heading.title, ".md", otherwise="conversation")
    path = expanded(rest or named)
    if path.exists():
        raise RequestError(f"{path} is there already; name another file: /save FILE")
    form = export(whole, "json" if path.suffix == ".json" else "markdown")
    try:
        path.write_text(form, encoding="utf-8")
    except OSError as error:
        raise RequestError(
            f"{path} cannot be written ({error.strerror}); name another file"
        ) from None
    chat.screen.remark(f"written to {path}")


async def forget(chat: Chat, _: str) -> None:
    current = _current(chat)
    heading = chat.store.read(current).heading
    choices = {"y": "delete it", "n": "keep it"}
    question = f"Delete {heading.title!r}, {heading.num_turns} turns?"
    if await chat.screen.choose(question, choices) == "y":
        discard(current, chat.store)
        chat.conversation, chat.last, chat.explanation = None, None, ""
        chat.screen.remark(
            f"deleted {heading.title!r}; /restore brings it back for {KEPT_S / 60:.0f} minutes, "
            "then it is erased. This is a new conversation"
        )
    else:
        chat.screen.remark("it is kept; nothing is deleted without your y")


async def restore(chat: Chat, rest: str) -> None:
    chat.conversation = chat.store.trash.restore(rest)
    chat.show_past()


async def list_past(chat: Chat, rest: str) -> None:
    found = chat.store.search(rest) if rest else None
    headings = [hit.heading for hit in found] if found is not None else chat.store.headings(20)
    for heading in headings:
        day = time.strftime("%Y-%m-%d", time.localtime(heading.changed_at))
        chat.screen.remark(f"{heading.id[:8]}  {day}  {heading.title}")
    if not headings:
        chat.screen.remark("no conversation was found")


async def open_past(chat: Chat, rest: str) -> None:
    chat.conversation = chat.store.find(rest)
    chat.system, chat.last, chat.explanation = chat.store.read(chat.conversation).system, None, ""
    chat.attached.drop()
    await chat.attach_again()
    chat.show_past()


def _current(chat: Chat) -> str:
    if chat.conversation is None:
        raise RequestError("nothing has been said yet; ask something first")
    return chat.conversation
