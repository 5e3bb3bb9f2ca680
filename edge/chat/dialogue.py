"""One question and its answer: sent to an engine, and kept in the store while it is written."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec

from backbone.errors import NearfarError
from edge.conversations.answer_writer import AnswerWriter
from edge.conversations.conversation import Conversation, State, Turn
from edge.conversations.store import Conversations
from offload.egress.outbox import Outbox
from offload.egress.privacy.shareable_part import class_of, holds_private
from offload.engine import AnswerStream, Engine
from offload.errors import RequestError
from offload.hybrid.hybrid import Hybrid
from offload.messages import Delta, Finish, Privacy, Request, Sampling, Side, ToolCall
from offload.tool_calls.call_reader import CallReader
from offload.tool_calls.toolbox import Toolbox

_STATES: dict[str, State] = {"cancelled": "stopped", "deadline": "stopped", "error": "failed"}


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """Answer options: the side (None leaves it to the policy), the privacy class, the sampling.

    `thinking` asks the chat template for thoughts before the answer, or for none; None leaves it
    as the template has it. `outbox` takes the questions that the cloud may answer better when it is
    back; None takes none. `tools` are those that the answer may call.
    """

    forced: Side | None = None
    privacy: Privacy = Privacy.ASK
    sampling: Sampling = field(default_factory=Sampling)
    thinking: bool | None = None
    outbox: Outbox | None = None
    tools: Toolbox | None = None


async def answer(
    engine: Engine,
    store: Conversations,
    conversation: str,
    options: AnswerOptions,
    *,
    resume: bool = False,
) -> AnswerStream:
    """Stream the answer to a conversation's last question, and keep each piece as it comes.

    With `resume` the last answer, which was not finished, goes on; only what is new is streamed.
    Closing the iterator stops the answer and keeps what there is. Raises NearfarError, and then
    the turn says so.
    """
    whole = store.read(conversation)
    begun = unfinished(whole) if resume else None
    if begun is not None:
        whole = msgspec.structs.replace(whole, turns=whole.turns[:-1])
    prefix = begun.content if begun is not None else ""
    tools = None if begun is not None else options.tools
    request = Request(
        messages=whole.messages(),
        tools=tools.descriptions if tools else (),
        answer_prefix=prefix,
        sampling=options.sampling,
        privacy=options.privacy,
        session=conversation,
        template_options=(
            None if options.thinking is None else {"enable_thinking": options.thinking}
        ),
    )
    privacy = class_of(request)
    request = msgspec.structs.replace(request, privacy=privacy)
    side = _asked(engine, options.forced)
    # What is written near from turns that stay, stays; the cloud has not seen them.
    near = Privacy.LOCAL_ONLY if holds_private(request) else privacy
    writing = store.resume(begun.id) if begun else store.answer(conversation, near)
    text = prefix
    stream = side.generate(request)
    if tools is not None:
        stream = apart_from_calls(stream, tools, writing)
    try:
        async with aclosing(stream):
            async for item in stream:
                if isinstance(item, Delta) and item.replaces and prefix:
                    item = msgspec.structs.replace(item, text=prefix + item.text)
                _keep(writing, item)
                if isinstance(item, Finish) and _is_far(item):
                    writing.classify(privacy)
                if isinstance(item, Delta):
                    text = item.apply(text)
                elif options.outbox and (name := options.outbox.put(request, text, item)):
                    writing.wait(name)
                yield item
    except (asyncio.CancelledError, GeneratorExit):
        writing.end("stopped")
        raise
    except NearfarError as error:
        writing.end("failed", Finish(reason="error", error=str(error)))
        raise


async def apart_from_calls(
    stream: AnswerStream, tools: Toolbox, writing: AnswerWriter
) -> AnswerStream:
    """Stream an answer without the calls in it, which are kept with its turn."""
    reader, text = CallReader(tools), ""
    async with aclosing(stream):
        async for item in stream:
            if isinstance(item, Delta):
                if item.replaces:
                    reader, text = CallReader(tools), ""
                said = "".join(each for each in reader.push(item.text) if isinstance(each, str))
                text += said
                yield msgspec.structs.replace(item, text=said)
                continue
            rest = "".join(each for each in reader.flush() if isinstance(each, str))
            if rest:
                yield Delta(text=rest)
            calls = [] if reader.is_cut or item.reason not in ("stop", "length") else reader.calls
            if calls:
                made = [ToolCall(id=c.id, name=c.name, arguments=c.arguments) for c in calls]
                writing.call(text + rest, made)
            yield item


def unfinished(conversation: Conversation) -> Turn:
    """Return the last answer, which can go on. Raises RequestError where it is whole."""
    last = conversation.turns[-1] if conversation.turns else None
    if last is None or not last.can_go_on:
        raise RequestError("there is no answer to go on with; /retry answers the question again")
    return last


def _asked(engine: Engine, forced: Side | None) -> Engine:
    if forced is None:
        return engine
    if not isinstance(engine, Hybrid):
        raise RequestError("this engine has one side only; ask without choosing one")
    return engine.forced(forced)


def _is_far(finish: Finish) -> bool:
    return finish.route is not None and finish.route.served_by == "cloud"


def _keep(writing: AnswerWriter, item: Delta | Finish) -> None:
    if isinstance(item, Finish):
        writing.end(_STATES.get(item.reason, "whole"), item)
    elif item.text or item.replaces:
        writing.write(item.text, source=item.source or "", replaces=item.replaces)
