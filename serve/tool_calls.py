"""Calls of tools, found in what a model writes.

Qwen, Hermes and many others write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`; where
a call is forced by a schema, the whole answer is that JSON. A call is handed on when it is
complete, so that half a call is never taken for one; what only looks like a call stays text.
"""

from __future__ import annotations

import uuid

import msgspec

from offload.messages import ToolCall
from serve.tools import Toolbox

OPEN, CLOSE = "<tool_call>", "</tool_call>"

Said = str | ToolCall


class _Written(msgspec.Struct):
    """A call as a model writes it; some say `parameters` for its arguments."""

    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"")
    parameters: msgspec.Raw = msgspec.Raw(b"")


class CallReader:
    """Reads one answer piece by piece."""

    def __init__(self, tools: Toolbox) -> None:
        self._tools = tools
        self._held = ""
        self._inside = tools.forced
        self.num_calls = 0

    def push(self, text: str) -> list[Said]:
        """Take the next piece of the answer; return what is now certain, in order."""
        self._held += text
        said: list[Said] = []
        while True:
            more = self._within() if self._inside else self._outside()
            if more is None:
                return [each for each in said if each != ""]
            said += more

    def flush(self) -> list[Said]:
        """The answer has ended: return the rest."""
        held, self._held = self._held, ""
        if self._inside:
            return self._called(held, "" if self._tools.forced else OPEN)
        return [held] if held and not (self.num_calls and held.isspace()) else []

    def _outside(self) -> list[Said] | None:
        before, opened, after = self._held.partition(OPEN)
        if opened:
            self._held, self._inside = after, True
            return [before.rstrip()]
        free = len(self._held) - _num_held(self._held)
        said, self._held = self._held[:free], self._held[free:]
        return [said] if said else None

    def _within(self) -> list[Said] | None:
        if self._tools.forced:
            return None  # its end is the answer's
        inside, closed, after = self._held.partition(CLOSE)
        if not closed:
            return None
        self._held, self._inside = after, False
        return self._called(inside, OPEN, CLOSE)

    def _called(self, text: str, before: str = "", after: str = "") -> list[Said]:
        call = self._parse(text)
        if call is None:
            return [before + text + after]
        if self._tools.most is not None and self.num_calls >= self._tools.most:
            return []
        self.num_calls += 1
        return [call]

    def _parse(self, text: str) -> ToolCall | None:
        try:
            written = msgspec.json.decode(text.encode(), type=_Written)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            return None
        if written.name not in self._tools.names:
            return None
        arguments = _arguments(bytes(written.arguments) or bytes(written.parameters) or b"{}")
        return ToolCall(id=f"call_{uuid.uuid4().hex[:24]}", name=written.name, arguments=arguments)


def _arguments(raw: bytes) -> str:
    # Some models write the arguments as a string that holds the JSON.
    return msgspec.json.decode(raw, type=str) if raw.startswith(b'"') else raw.decode()


def _num_held(text: str) -> int:
    """Return how many of the last characters may yet turn out to belong to an opening tag."""
    most = min(len(text), len(OPEN) - 1)
    partial = next((n for n in range(most, 0, -1) if OPEN.startswith(text[-n:])), 0)
    return len(text) - len(text[: len(text) - partial].rstrip())
