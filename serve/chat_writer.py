"""Chat writer: chat completions of text, log-probabilities and calls of the client's tools."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET, structs

from offload.messages import Delta, Finish, Request
from offload.thinking import ThoughtReader
from offload.tool_calls.call_reader import Began, CallReader, Grew, Said, read_whole
from serve.logprobs import ChatLogprobs, TokenLogprob
from serve.request_parsing import ParsedRequest
from serve.response_bodies import (
    AnswerMessage,
    CalledFunctionReply,
    CallPart,
    CallReply,
    ChatChoice,
    ChatChunk,
    ChatReply,
    ChunkChoice,
    FunctionPart,
    MessageDelta,
    Reason,
    Reply,
    reason_of,
)
from serve.response_writer import Gathered, ResponseWriter, finishes_of


class ChatWriter(ResponseWriter):
    """Writes chat completions."""

    prefix = "chatcmpl"

    def __init__(self, parsed: ParsedRequest) -> None:
        super().__init__(parsed)
        tools = parsed.tools
        self._readers = [CallReader(tools) for _ in parsed.requests] if tools else []
        self._thoughts = [_reader_of(each) for each in parsed.requests]
        self._numbers = [-1] * len(parsed.requests)  # of the call that began last, in each choice

    def whole(self, choices: list[Gathered]) -> Reply:
        finishes = finishes_of(choices)
        made = []
        for index, (each, finish) in enumerate(zip(choices, finishes, strict=True)):
            message = self._message(index, each.text)
            reason = self._reason(finish, calls=message.tool_calls is not UNSET)
            made.append(ChatChoice(index, message, self._logprobs(each.tokens), reason))
        return ChatReply(choices=made, usage=self._usage(finishes), **self._head)

    def opening(self, index: int, first: Delta | Finish) -> list[Reply]:
        role = MessageDelta(role="assistant", content="", refusal=None)
        return [self._chunk(ChunkChoice(index, role))]

    def pieces(self, index: int, delta: Delta) -> list[Reply]:
        if not self._is_worth_saying(delta):
            return []
        logprobs = self._logprobs(self._tokens(delta))
        thoughts = self._thoughts[index]
        thought, text = thoughts.push(delta.text) if thoughts else ("", delta.text)
        if not self._readers and not thought and text == delta.text:
            return [self._chunk(ChunkChoice(index, MessageDelta(content=text), logprobs))]
        made = [*self._thought(index, thought), *self._read(index, text)]
        if logprobs is None:
            return made
        # The tokens of a call and of thoughts' tags are told too, though their text is not.
        return [self._chunk(ChunkChoice(index, MessageDelta(content=""), logprobs)), *made]

    def ending(self, index: int, finish: Finish) -> list[Reply]:
        thoughts = self._thoughts[index]
        thought, text = thoughts.flush() if thoughts else ("", "")
        rest = [*self._thought(index, thought), *self._read(index, text)]
        rest += self._said(index, self._readers[index].flush()) if self._readers else []
        # A call that was cut off is not to be made.
        calls = any(reader.num_calls and not reader.is_cut for reader in self._readers[index:][:1])
        end = ChunkChoice(index, MessageDelta(), finish_reason=self._reason(finish, calls=calls))
        return [*rest, self._chunk(end)]

    def tally(self, finishes: list[Finish]) -> Reply:
        return ChatChunk(choices=[], usage=self._usage(finishes), **self._head)

    def _thought(self, index: int, text: str) -> list[Reply]:
        if not text:
            return []
        return [self._chunk(ChunkChoice(index, MessageDelta(reasoning_content=text)))]

    def _read(self, index: int, text: str) -> list[Reply]:
        """Return what a piece of the answer, behind its thoughts, is worth."""
        if not text:
            return []
        return self._said(index, self._readers[index].push(text) if self._readers else [text])

    def _said(self, index: int, said: Sequence[Said]) -> list[Reply]:
        made = []
        for each in said:
            if isinstance(each, str):
                delta = MessageDelta(content=each)
            else:
                self._numbers[index] += isinstance(each, Began)
                delta = MessageDelta(tool_calls=[_part(each, self._numbers[index])])
            made.append(self._chunk(ChunkChoice(index, delta)))
        return made

    def _message(self, index: int, text: str) -> AnswerMessage:
        thoughts, thought = self._thoughts[index], ""
        if thoughts:
            first, rest = thoughts.push(text), thoughts.flush()
            thought, text = first.thought + rest.thought, first.answer + rest.answer
        message = self._answer(text)
        return structs.replace(message, reasoning_content=thought) if thought else message

    def _answer(self, text: str) -> AnswerMessage:
        if self.parsed.tools is None:
            return AnswerMessage(text)
        content, written = read_whole(text, self.parsed.tools)
        calls = [
            CallReply(each.id, CalledFunctionReply(each.name, each.arguments)) for each in written
        ]
        return AnswerMessage(content or None, tool_calls=calls) if calls else AnswerMessage(content)

    def _reason(self, finish: Finish, *, calls: bool) -> Reason:
        # As OpenAI says it: a call that the client itself chose is no news.
        tools = self.parsed.tools
        if tools is None or tools.named or not calls:
            return reason_of(finish)
        return "tool_calls"

    def _chunk(self, choice: ChunkChoice) -> Reply:
        return ChatChunk(choices=[choice], usage=self._no_usage, **self._head)

    def _logprobs(self, tokens: list[TokenLogprob]) -> ChatLogprobs | None:
        return ChatLogprobs(tokens) if self.parsed.logprobs else None


def _reader_of(request: Request) -> ThoughtReader | None:
    """Return what tells thoughts apart; an answer that follows a schema has none."""
    if request.sampling.json_schema is not None:
        return None
    reader = ThoughtReader()
    reader.push(request.answer_prefix)
    return reader


def _part(said: Began | Grew, number: int) -> CallPart:
    if isinstance(said, Grew):
        return CallPart(number, FunctionPart(said.arguments))
    return CallPart(number, FunctionPart("", said.name), said.id, "function")
