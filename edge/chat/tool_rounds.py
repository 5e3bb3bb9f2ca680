"""Tool rounds: an answer that calls tools goes on with their results, until it calls none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from edge.chat.dialogue import AnswerOptions, answer
from edge.conversations.store import Conversations
from edge.tools.desk import AskedCall, ToolDesk
from edge.tools.tool import ToolResult
from offload.engine import Engine
from offload.errors import Unsupported
from offload.messages import Delta, Finish, Privacy

MAX_ROUNDS = 8  # of calls and their results, within one answer


@dataclass(frozen=True, kw_only=True)
class ToolRun:
    """A call that was made or refused, and what came of it."""

    asked: AskedCall
    result: ToolResult


@dataclass(frozen=True, kw_only=True)
class ToolTrouble:
    """Why tools could not be offered, in one line."""

    reason: str


AnswerItem = Delta | Finish | ToolRun | ToolTrouble


async def answer_with_tools(
    engine: Engine,
    store: Conversations,
    conversation: str,
    options: AnswerOptions,
    desk: ToolDesk | None,
    *,
    privacy: Privacy = Privacy.LOCAL_ONLY,
    resume: bool = False,
) -> AsyncGenerator[AnswerItem, None]:
    """Stream the answer to a conversation's last question, with the calls that are made for it.

    `privacy` is the class of what tools answer. Behind a ToolRun the answer begins a new turn; only
    the last one's Finish is told. Raises NearfarError, as answer() does.
    """
    tools = await desk.toolbox() if desk is not None and not resume else None
    for trouble in desk.troubles if desk is not None and not resume else ():
        yield ToolTrouble(reason=trouble)
    known: dict[tuple[str, str], ToolResult] = {}
    for round_number in range(MAX_ROUNDS + 1):
        offered = tools if round_number < MAX_ROUNDS else None
        before, finish = store.versions.tip(conversation), None
        wish = replace(options, tools=offered)
        try:
            stream = answer(engine, store, conversation, wish, resume=resume)
            async with aclosing(stream):
                async for item in stream:
                    if isinstance(item, Finish):
                        finish = item
                    else:
                        yield item
        except Unsupported as error:
            if offered is None:
                raise
            store.versions.show(conversation, before)
            tools = None
            yield ToolTrouble(reason=f"answered without tools: {error}")
            continue
        assert finish is not None, "an answer ends with a Finish"
        calls = store.read(conversation).turns[-1].calls if offered else ()
        if not calls or desk is None:
            yield finish
            return
        for call in calls:
            same = call.name, call.arguments
            if same in known:  # small models ask again for what they were told
                tools = None
                store.tool_result(conversation, call, known[same].text, privacy)
                continue
            asked, result = await desk.run(call, conversation)
            known[same] = result
            tools = None if result.refused else tools  # else a small model tries another
            store.tool_result(conversation, call, result.text, privacy)
            yield ToolRun(asked=asked, result=result)
