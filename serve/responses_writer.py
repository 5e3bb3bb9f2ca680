"""Responses writer: OpenAI's newer form of an answer, whole or as typed events."""

from __future__ import annotations

from typing import Any

import msgspec

from offload.messages import Delta, Finish
from serve.chat_writer import ChatWriter
from serve.request_parsing import ParsedRequest
from serve.response_bodies import ChatChunk
from serve.response_writer import Gathered, ReplyPart, ResponseWriter


class ResponsesWriter(ResponseWriter):
    """Writes the one answer of a request, of what ChatWriter reads in it: thoughts, text, calls."""

    prefix = "resp"

    def __init__(self, asked: ParsedRequest) -> None:
        super().__init__(asked)
        self._parts = ChatWriter(asked)
        self._number = 0  # of the next event
        self._items: list[dict[str, Any]] = []  # of the answer, the last one perhaps open
        self._is_open = False

    def whole(self, choices: list[Gathered]) -> ReplyPart:
        answer = choices[0]
        assert answer.finish is not None, "a reply is written when every choice has ended"
        self.pieces(0, Delta(text=answer.text))
        *_, end = self.ending(0, answer.finish)
        assert isinstance(end, dict), "the last event holds the response"
        response: dict[str, Any] = end["response"]
        return response

    def opening(self, index: int, first: Delta | Finish) -> list[ReplyPart]:
        return [self._event("response.created", response=self._response("in_progress", None))]

    def pieces(self, index: int, delta: Delta) -> list[ReplyPart]:
        return self._events(self._parts.pieces(0, delta))

    def ending(self, index: int, finish: Finish) -> list[ReplyPart]:
        events = [*self._events(self._parts.ending(0, finish)), *self._closed()]
        status = "incomplete" if finish.reason == "length" else "completed"
        return [*events, self._event(f"response.{status}", response=self._response(status, finish))]

    def tally(self, finishes: list[Finish]) -> ReplyPart:
        raise AssertionError("its last event holds the usage")

    def _events(self, chunks: list[Any]) -> list[ReplyPart]:
        events: list[ReplyPart] = []
        for chunk in chunks:
            assert isinstance(chunk, ChatChunk), "a chat is written in chunks"
            for choice in chunk.choices:
                said = msgspec.to_builtins(choice.delta)
                events += self._added("reasoning", said.get("reasoning_content", ""))
                events += self._added("message", said.get("content", ""))
                for part in said.get("tool_calls", ()):
                    events += self._called(part)
        return events

    def _added(self, kind: str, text: str) -> list[ReplyPart]:
        """Return the events of a piece of text or of thoughts."""
        if not text:
            return []
        events = self._opened(kind) if not self._is(kind) else []
        self._items[-1]["content"][0]["text"] += text
        name = "output_text" if kind == "message" else "reasoning_text"
        more: dict[str, Any] = {"logprobs": []} if kind == "message" else {}
        return [*events, self._of_part(f"response.{name}.delta", delta=text, **more)]

    def _called(self, part: dict[str, Any]) -> list[ReplyPart]:
        function, events = part["function"], list[ReplyPart]()
        if "name" in function:
            events = [*self._closed(), self._begun(_call(part["id"], function["name"]))]
        self._items[-1]["arguments"] += function["arguments"]
        if function["arguments"]:
            name = "response.function_call_arguments.delta"
            events.append(self._of_item(name, delta=function["arguments"]))
        return events

    def _is(self, kind: str) -> bool:
        return self._is_open and self._items[-1]["type"] == kind

    def _opened(self, kind: str) -> list[ReplyPart]:
        events, number = self._closed(), len(self._items)
        part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": []}
        item: dict[str, Any] = {
            "type": kind,
            "id": f"msg_{number}_{self._key}",
            "role": "assistant",
        }
        if kind == "reasoning":
            part = {"type": "reasoning_text", "text": ""}
            item = {"type": kind, "id": f"rs_{number}_{self._key}", "summary": []}
        begun = self._begun({**item, "status": "in_progress", "content": []})
        self._items[-1]["content"] = [part]
        return [*events, begun, self._of_part("response.content_part.added", part=dict(part))]

    def _begun(self, item: dict[str, Any]) -> ReplyPart:
        self._items.append(item)
        self._is_open = True
        return self._of_item("response.output_item.added", item=dict(item), keyed=False)

    def _closed(self) -> list[ReplyPart]:
        """Return the events that end the open item, if there is one."""
        if not self._is_open:
            return []
        item, events = self._items[-1], list[ReplyPart]()
        item["status"] = "completed"
        if item["type"] == "function_call":
            name = "response.function_call_arguments.done"
            events.append(self._of_item(name, arguments=item["arguments"], name=item["name"]))
        else:
            part = item["content"][0]
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            events.append(self._of_part(f"response.{kind}.done", text=part["text"], **more))
            events.append(self._of_part("response.content_part.done", part=part))
        events.append(self._of_item("response.output_item.done", item=item, keyed=False))
        self._is_open = False
        return events

    def _of_part(self, kind: str, **more: Any) -> ReplyPart:
        return self._of_item(kind, content_index=0, **more)

    def _of_item(self, kind: str, *, keyed: bool = True, **more: Any) -> ReplyPart:
        at: dict[str, Any] = {"output_index": len(self._items) - 1}
        if keyed:
            at["item_id"] = self._items[-1]["id"]
        return self._event(kind, **at, **more)

    def _event(self, kind: str, **more: Any) -> ReplyPart:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **more}

    @property
    def _key(self) -> str:
        return self.parsed.requests[0].id

    def _response(self, status: str, finish: Finish | None) -> dict[str, Any]:
        usage = None if finish is None else self._taken(finish)
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._head["id"].replace("-", "_", 1),
            "object": "response",
            "created_at": self._head["created"],
            "model": self._head["model"],
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "instructions": None,
            "metadata": {},
            "output": list(self._items),
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "temperature": None,
            "top_p": None,
            "usage": usage,
        }

    def _taken(self, finish: Finish) -> dict[str, Any]:
        usage = msgspec.to_builtins(self._usage([finish]))
        return {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
            **{name: usage[name] for name in ("route", "dropped_tokens") if name in usage},
        }


def _call(call_id: str, name: str) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{call_id}",
        "call_id": call_id,
        "name": name,
        "arguments": "",
        "status": "in_progress",
    }
