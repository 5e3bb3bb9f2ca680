"""Calls of tools, found in what a model writes, and told while they are written.

Qwen, Hermes and many others write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`; where
a call is forced by a schema, the whole answer is that JSON. A call begins as soon as an offered
tool is named, and its arguments follow piece by piece, as OpenAI streams them. Calls in another
order, or with their arguments in a string, are told when they are complete; what only looks like
a call stays text.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Literal, NamedTuple

import msgspec

from offload.messages import ToolCall
from serve.json_end import JsonEnd
from serve.tools import Toolbox

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


class Began(NamedTuple):
    """A call has begun."""

    id: str
    name: str


class Grew(NamedTuple):
    """The call that began last has more arguments, a piece of JSON text."""

    arguments: str


Said = str | Began | Grew
Place = Literal["outside", "head", "arguments", "tail", "closing"]


class _Written(msgspec.Struct):
    """A call as a model writes it; some say `parameters` for its arguments."""

    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"")
    parameters: msgspec.Raw = msgspec.Raw(b"")


@dataclass
class Call:
    """A call as far as it has been read; `raw` is all of it, as the model wrote it."""

    id: str
    name: str
    arguments: str = ""
    raw: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are JSON."""
        try:
            msgspec.json.decode(self.arguments.encode())
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return False
        return True

    def as_told(self) -> ToolCall:
        """Return it as a message holds it."""
        return ToolCall(id=self.id, name=self.name, arguments=self.arguments)


class CallReader:
    """Reads one answer piece by piece."""

    def __init__(self, tools: Toolbox) -> None:
        self._tools = tools
        self._held = ""
        self._place: Place = "head" if tools.forced else "outside"
        self._end = JsonEnd()
        self.calls: list[Call] = []
        self.is_cut = False  # the answer ended within a call

    def push(self, text: str) -> list[Said]:
        """Take the next piece of the answer; return what is now certain, in order."""
        self._held += text
        steps = {
            "outside": self._outside,
            "head": self._head,
            "arguments": self._arguments,
            "tail": self._tail,
            "closing": self._closing,
        }
        said: list[Said] = []
        while (more := steps[self._place]()) is not None:
            said += more
        return [each for each in said if each not in ("", Grew(""))]

    @property
    def num_calls(self) -> int:
        """How many calls have begun."""
        return len(self.calls)

    def flush(self) -> list[Said]:
        """The answer has ended: return the rest."""
        place, held = self._place, self._held
        self._held, self._place = "", "outside"
        if place == "head":
            return self._whole(held, "" if self._tools.forced else OPEN)
        if place == "outside":
            return [held] if held and not (self.num_calls and held.isspace()) else []
        self.is_cut = place == "arguments"
        self.calls[-1].raw += held
        return []

    def _outside(self) -> list[Said] | None:
        before, opened, after = self._held.partition(OPEN)
        if opened:
            self._held, self._place = after, "head"
            return [before.rstrip()]
        free = len(self._held) - _num_held(self._held)
        said, self._held = self._held[:free], self._held[free:]
        return [said] if said else None

    def _head(self) -> list[Said] | None:
        head = _HEAD.match(self._held)
        if head is not None and self._may_call(head["name"]):
            self._place, self._end = "arguments", JsonEnd()
            begun = self._begin(head["name"], "" if self._tools.forced else OPEN)
            self._take(head.end())
            return [begun]
        inside, closed, after = self._held.partition(CLOSE)
        if self._tools.forced or not closed:
            return None
        self._held, self._place = after, "outside"
        return self._whole(inside, OPEN, CLOSE)

    def _arguments(self) -> list[Said] | None:
        if not self._held:
            return None
        end = self._end.find(self._held)
        if end is not None:
            self._place, self._end = "tail", JsonEnd(depth=1)
        piece = self._take(len(self._held) if end is None else end)
        self.calls[-1].arguments += piece
        return [Grew(piece)]

    def _tail(self) -> list[Said] | None:
        """Pass over the rest of the object around the arguments."""
        end = self._end.find(self._held)
        self._take(len(self._held) if end is None else end)
        if end is None:
            return None
        self._place = "closing"
        return []

    def _closing(self) -> list[Said] | None:
        """Pass over the closing tag; a model that left it out goes on with text."""
        rest = self._held.lstrip()
        if CLOSE.startswith(rest) and rest != CLOSE:
            return None
        if rest.startswith(CLOSE):
            self._take(len(self._held) - len(rest) + len(CLOSE))
        self._place = "outside"
        return []

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        self.calls[-1].raw += taken
        return taken

    def _may_call(self, name: str) -> bool:
        most = self._tools.most
        return name in self._tools.names and (most is None or self.num_calls < most)

    def _begin(self, name: str, raw: str, arguments: str = "") -> Began:
        call = Call(f"call_{uuid.uuid4().hex[:24]}", name, arguments, raw)
        self.calls.append(call)
        return Began(call.id, name)

    def _whole(self, text: str, before: str = "", after: str = "") -> list[Said]:
        """Return a call that is complete, or its text where it is none."""
        call = self._parse(text)
        if call is None:
            return [before + text + after]
        name, arguments = call
        if not self._may_call(name):
            return []
        return [self._begin(name, before + text + after, arguments), Grew(arguments)]

    def _parse(self, text: str) -> tuple[str, str] | None:
        try:
            written = msgspec.json.decode(text.encode(), type=_Written)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return None
        if written.name not in self._tools.names:
            return None
        raw = bytes(written.arguments) or bytes(written.parameters) or b"{}"
        # Some models write the arguments as a string that holds the JSON.
        is_text = raw.startswith(b'"')
        return written.name, msgspec.json.decode(raw, type=str) if is_text else raw.decode()


def read_whole(text: str, tools: Toolbox) -> tuple[str, list[ToolCall]]:
    """Return the text and the calls of a whole answer; a call that is not whole stays text."""
    reader = CallReader(tools)
    said = [*reader.push(text), *reader.flush()]
    begun = iter(reader.calls)
    parts = [next(begun) if isinstance(each, Began) else each for each in said]
    kept = [part.raw if isinstance(part, Call) else part for part in parts if not _is_call(part)]
    calls = [call.as_told() for call in reader.calls if call.is_whole]
    return "".join(each for each in kept if isinstance(each, str)), calls


def _is_call(part: Said | Call) -> bool:
    return isinstance(part, Call) and part.is_whole


def _num_held(text: str) -> int:
    """Return how many of the last characters may yet turn out to belong to an opening tag."""
    most = min(len(text), len(OPEN) - 1)
    partial = next((n for n in range(most, 0, -1) if OPEN.startswith(text[-n:])), 0)
    return len(text) - len(text[: len(text) - partial].rstrip())
