"""Writes chat completions: text, log-probabilities, and calls of the client's tools."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from offload.messages import Delta, Finish, ToolCall
from serve.asking import Asked
from serve.logprobs import ChatLogprobs, TokenLogprob
from serve.replies import (
    AnswerMessage,
    CalledFunctionReply,
    CallReply,
    ChatChoice,
    ChatChunk,
    ChatReply,
    ChunkChoice,
    MessageDelta,
    Reason,
    Reply,
    reason_of,
)
from serve.tool_calls import CallReader, Said
from serve.writer import Gathered, Writer, finishes_of


class ChatWriter(Writer):
    """Writes chat completions."""

    prefix = "chatcmpl"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        tools = asked.tools
        self._readers = [CallReader(tools) for _ in asked.requests] if tools else []

    def whole(self, choices: list[Gathered]) -> Reply:
        finishes = finishes_of(choices)
        made = [
            ChatChoice(
                index,
                self._message(index, each.text),
                self._logprobs(each.tokens),
                self._reason(index, finish),
            )
            for index, (each, finish) in enumerate(zip(choices, finishes, strict=True))
        ]
        return ChatReply(choices=made, usage=self._usage(finishes), **self._head)

    def opening(self, index: int, first: Delta | Finish) -> list[Reply]:
        role = MessageDelta(role="assistant", content="", refusal=None)
        return [self._chunk(ChunkChoice(index, role))]

    def pieces(self, index: int, delta: Delta) -> list[Reply]:
        if not self._is_worth_saying(delta):
            return []
        logprobs = self._logprobs(self._tokens(delta))
        if not self._readers:
            return [self._chunk(ChunkChoice(index, MessageDelta(content=delta.text), logprobs))]
        made = self._said(index, self._readers[index].push(delta.text))
        if logprobs is None:
            return made
        # The tokens of a call are told too, though its text is not.
        return [self._chunk(ChunkChoice(index, MessageDelta(content=""), logprobs)), *made]

    def ending(self, index: int, finish: Finish) -> list[Reply]:
        rest = self._said(index, self._readers[index].flush()) if self._readers else []
        end = ChunkChoice(index, MessageDelta(), finish_reason=self._reason(index, finish))
        return [*rest, self._chunk(end)]

    def tally(self, finishes: list[Finish]) -> Reply:
        return ChatChunk(choices=[], usage=self._usage(finishes), **self._head)

    def _said(self, index: int, said: Sequence[Said]) -> list[Reply]:
        number = self._readers[index].num_calls - sum(isinstance(s, ToolCall) for s in said)
        made = []
        for each in said:
            if isinstance(each, str):
                delta = MessageDelta(content=each)
            else:
                delta = MessageDelta(tool_calls=[_call(each, number)])
                number += 1
            made.append(self._chunk(ChunkChoice(index, delta)))
        return made

    def _message(self, index: int, text: str) -> AnswerMessage:
        if not self._readers:
            return AnswerMessage(text)
        said = self._readers[index].push(text) + self._readers[index].flush()
        content = "".join(each for each in said if isinstance(each, str))
        calls = [_call(each) for each in said if isinstance(each, ToolCall)]
        return AnswerMessage(content or None, tool_calls=calls) if calls else AnswerMessage(content)

    def _reason(self, index: int, finish: Finish) -> Reason:
        # As OpenAI says it: a call that the client itself chose is no news.
        tools = self.asked.tools
        if tools is None or tools.named or not self._readers[index].num_calls:
            return reason_of(finish)
        return "tool_calls"

    def _chunk(self, choice: ChunkChoice) -> Reply:
        return ChatChunk(choices=[choice], usage=self._no_usage, **self._head)

    def _logprobs(self, tokens: list[TokenLogprob]) -> ChatLogprobs | None:
        return ChatLogprobs(tokens) if self.asked.logprobs else None


def _call(call: ToolCall, number: int | None = None) -> CallReply:
    function = CalledFunctionReply(call.name, call.arguments)
    return CallReply(call.id, function, index=UNSET if number is None else number)
