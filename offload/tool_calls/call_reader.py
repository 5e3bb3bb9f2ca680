"""Tool calls, found in what a model writes, whole or while it is written.

A call is told when it is whole, names a tool that was offered, and has arguments that fit the
tool's schema; what only looks like one stays text. Where a call is forced, the answer follows a
schema and can be nothing else: its arguments are told piece by piece, as OpenAI streams them.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from offload.messages import ToolCall
from offload.tool_calls.call_forms import OPENERS, Calls, read_calls, whole_call
from offload.tool_calls.scanner import JsonEnd, Scanner, Step
from offload.tool_calls.toolbox import Toolbox

_NEVER = re.compile(r"(?!)")
_OPENER = re.compile(f"[{re.escape(OPENERS)}]")


class Began(NamedTuple):
    """Event: a call has begun."""

    id: str
    name: str


class Grew(NamedTuple):
    """Event: the last call's arguments grew by a piece of JSON text."""

    arguments: str


Said = str | Began | Grew


@dataclass
class Call:
    """A call as far as it has been read."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces)


class CallReader:
    """Call reader: reads one answer piece by piece, in linear time."""

    def __init__(self, tools: Toolbox) -> None:
        self._tools = tools
        self.source = Scanner()
        self._reading = self._forced() if tools.forced else self._free()
        self._said: list[Said] = []
        self._space = ""  # behind what was said: it goes with what follows, and not before a call
        self._begins_line = self._begins_answer = True
        self.calls: list[Call] = []
        self.is_cut = False  # the answer ended within a call

    def push(self, text: str) -> list[Said]:
        """Take the next piece of the answer; return what is now certain, in order."""
        self.source.add(text)
        return self._run()

    def flush(self) -> list[Said]:
        """The answer has ended: return the rest."""
        self.source.ended = True
        said = self._run()
        return said if self.calls or not self._space else [*said, self._space]

    @property
    def num_calls(self) -> int:
        """How many calls have begun."""
        return len(self.calls)

    def _run(self) -> list[Said]:
        next(self._reading, None)
        said, self._said = self._said, []
        return said

    def _free(self) -> Step[None]:
        """Read an answer that may hold calls."""
        source = self.source
        while source.next or not source.ended:
            if not source.next:
                yield
            elif source.next in OPENERS or (self._begins_answer and not source.next.isspace()):
                yield from self._try()
            else:
                self._say(source.take_to(_OPENER))
                source.passed()

    def _try(self) -> Step[None]:
        """Read what begins here as calls, or else as text."""
        source = self.source
        line, answer = self._begins_line, self._begins_answer
        calls = yield from read_calls(source, self._tools, begins_line=line, begins_answer=answer)
        passed = source.passed()
        if calls is None:
            self._say(passed or source.take(1))
            source.passed()
        elif calls:  # else it was a mark alone
            self._call(calls)
            self._space = passed[len(passed.rstrip()) :]

    def _call(self, calls: Calls) -> None:
        self._space, self._begins_line, self._begins_answer = "", True, False
        for name, arguments in calls:
            if self._may_call(name):
                self._begin(name)
                self._grow(arguments)

    def _say(self, text: str) -> None:
        body = text.rstrip()
        if body:
            self._said.append(self._space + body)
            self._space, self._begins_answer = "", False
        self._space += text[len(body) :]
        last = text[text.rfind("\n") + 1 :]
        self._begins_line = not last.strip() and (self._begins_line or "\n" in text)

    def _forced(self) -> Step[None]:
        """Read an answer that is one call, and tell its arguments as they come."""
        source = self.source
        name = yield from self._forced_name()
        if name is None:
            yield from self._forced_whole()
            return
        source.passed()
        self._begin(name)
        end = JsonEnd()
        while True:
            piece, is_over = source.piece(end)
            self._grow(piece)
            source.passed()
            if is_over:
                break
            if source.ended:
                self.is_cut = True
                return
            yield
        yield from source.value(JsonEnd("}"))
        source.passed()
        yield from self._free()

    def _forced_name(self) -> Step[str | None]:
        """Read up to where the arguments begin; None where they are written in another way."""
        source = self.source
        for word in ("{", '"name"', ":", '"'):
            yield from source.space()
            if not (yield from source.literal(word)):
                return None
        name = yield from source.word()
        if not self._may_call(name) or not (yield from source.literal('"')):
            return None
        for word in (",", '"arguments"', ":"):
            yield from source.space()
            if not (yield from source.literal(word)):
                return None
        return name if (yield from source.space()) == "{" else None

    def _forced_whole(self) -> Step[None]:
        source = self.source
        while not source.ended:
            source.take_to(_NEVER)
            yield
        source.take_to(_NEVER)
        text = source.passed()
        call = whole_call(text, self._tools)
        if call is None:
            self._say(text)
        else:
            self._call([call])

    def _may_call(self, name: str) -> bool:
        max_calls = self._tools.max_calls
        return name in self._tools.names and (max_calls is None or self.num_calls < max_calls)

    def _begin(self, name: str) -> None:
        call = Call(f"call_{uuid.uuid4().hex[:24]}", name)
        self.calls.append(call)
        self._said.append(Began(call.id, name))

    def _grow(self, arguments: str) -> None:
        if arguments:
            self.calls[-1].pieces.append(arguments)
            self._said.append(Grew(arguments))


def read_whole(text: str, tools: Toolbox) -> tuple[str, list[ToolCall]]:
    """Return the text and the calls of a whole answer; a call that is not whole stays text."""
    reader = CallReader(tools)
    said = [*reader.push(text), *reader.flush()]
    calls = [
        ToolCall(id=each.id, name=each.name, arguments=each.arguments) for each in reader.calls
    ]
    if reader.is_cut or not all(_is_json(call.arguments) for call in calls):
        return text, []
    return "".join(each for each in said if isinstance(each, str)), calls


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True
