"""Lines of Ollama's API: an answer piece by piece, its end with durations, or whole in one."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from typing import Any

import msgspec

from offload.messages import Delta, Finish
from serve.chat_writer import ChatWriter
from serve.request_parsing import ParsedRequest
from serve.response_bodies import ChatChunk, Reply
from serve.response_writer import Gathered

_NS = 1_000_000_000


def stamp(at: float | None = None) -> str:
    """Return a time of time.time(), or now, as RFC 3339 writes it."""
    moment = time.time() if at is None else at
    return datetime.fromtimestamp(moment, timezone.utc).isoformat().replace("+00:00", "Z")


class LineWriter:
    """Writes one answer as ollama's lines; `is_chat` of /api/chat, else of /api/generate."""

    def __init__(
        self, asked: ParsedRequest, *, is_chat: bool, began_s: float, load_s: float
    ) -> None:
        self._model, self._is_chat = asked.model, is_chat
        self._began_s, self._load_s = began_s, load_s
        # A raw prompt's answer has neither thoughts nor calls, as ollama tells it.
        self._parts = ChatWriter(asked) if asked.requests[0].messages else None
        self._calls: list[dict[str, str]] = []

    def piece(self, delta: Delta) -> list[dict[str, Any]]:
        """Return the lines that a piece of the answer is worth."""
        if self._parts is None:
            return [self._said(content=delta.text)] if delta.text else []
        return self._lines(self._parts.pieces(0, delta))

    def end(self, finish: Finish) -> list[dict[str, Any]]:
        """Return the lines that end the answer: the calls of tools, and what it took."""
        lines = self._lines(self._parts.ending(0, finish)) if self._parts else []
        if self._calls:
            lines.append(self._said(calls=[_called(each) for each in self._calls]))
        return [*lines, {**self._said(), **self._took(finish)}]

    def whole(self, answer: Gathered) -> dict[str, Any]:
        """Return the answer in one object."""
        assert answer.finish is not None, "a whole answer has ended"
        lines = [*self.piece(Delta(text=answer.text)), *self.end(answer.finish)]
        content = "".join(_content(line) for line in lines)
        thinking = "".join(_thinking(line) for line in lines)
        calls = [call for line in lines for call in _calls(line)]
        return {**lines[-1], **self._body(content, thinking, calls)}

    def _lines(self, replies: list[Reply]) -> list[dict[str, Any]]:
        made = []
        for reply in replies:
            assert isinstance(reply, ChatChunk), "a chat is written in chunks"
            for choice in reply.choices:
                delta = msgspec.to_builtins(choice.delta)
                self._collect(delta.get("tool_calls", ()))
                content, thinking = delta.get("content", ""), delta.get("reasoning_content", "")
                if content or thinking:
                    made.append(self._said(content=content, thinking=thinking))
        return made

    def _collect(self, parts: Any) -> None:
        for part in parts:
            function = part["function"]
            if "name" in function:
                self._calls.append({"name": function["name"], "arguments": ""})
            self._calls[-1]["arguments"] += function["arguments"]

    def _said(
        self, *, content: str = "", thinking: str = "", calls: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        head = {"model": self._model, "created_at": stamp()}
        return {**head, **self._body(content, thinking, calls or []), "done": False}

    def _body(self, content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
        thought = {"thinking": thinking} if thinking else {}
        if not self._is_chat:
            return {"response": content, **thought}
        called = {"tool_calls": calls} if calls else {}
        return {"message": {"role": "assistant", "content": content, **thought, **called}}

    def _took(self, finish: Finish) -> dict[str, Any]:
        usage = finish.usage
        return {
            "done": True,
            "done_reason": "length" if finish.reason == "length" else "stop",
            "total_duration": _ns(time.monotonic() - self._began_s),
            "load_duration": _ns(self._load_s),
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _ns(usage.prefill_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": _ns(usage.decode_s),
        }


def loaded(model: str, *, is_chat: bool, reason: str) -> dict[str, Any]:
    """Return the answer to who only wants a model in memory, or out of it."""
    body = {"message": {"role": "assistant", "content": ""}} if is_chat else {"response": ""}
    return {"model": model, "created_at": stamp(), **body, "done": True, "done_reason": reason}


def _called(call: dict[str, str]) -> dict[str, Any]:
    return {"function": {"name": call["name"], "arguments": json.loads(call["arguments"] or "{}")}}


def _message(line: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = line.get("message", line)
    return found


def _content(line: dict[str, Any]) -> str:
    found = _message(line)
    return str(found.get("content", found.get("response", "")))


def _thinking(line: dict[str, Any]) -> str:
    return str(_message(line).get("thinking", ""))


def _calls(line: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _message(line).get("tool_calls", [])
    return found


def _ns(seconds: float) -> int:
    return max(0, round(seconds * _NS))
