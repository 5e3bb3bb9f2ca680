"""Answers that call tools: what is called is kept, shown, asked about, and never leaves unasked."""

from __future__ import annotations

from collections.abc import Sequence

from edge.chat.dialogue import AnswerOptions
from edge.chat.tool_rounds import MAX_ROUNDS, ToolRun, ToolTrouble, answer_with_tools
from edge.conversations.store import Conversations
from edge.tools.builtin import TimeTools
from edge.tools.desk import AskedCall, ToolDesk, ToolReply
from offload.engine import AnswerStream, Engine
from offload.errors import Unsupported
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.messages import Delta, Finish, Privacy, Request
from tests.offload.scripted import ScriptedEngine

CALL = '<tool_call>\n{"name": "current_time", "arguments": {"zone": "UTC"}}\n</tool_call>'


def scripted(request: Request) -> Sequence[str]:
    """Call the time once, then answer by what came."""
    last = request.messages[-1]
    if last.role == "tool":
        return ("It is ", last.content)
    return ("Let me look. ", CALL[:20], CALL[20:])


class WithoutTools(ScriptedEngine):
    async def generate(self, request: Request) -> AnswerStream:
        if request.tools:
            raise Unsupported("no place for tools")
        async for item in super().generate(request):
            yield item


async def talk(
    engine: Engine,
    *,
    reply: ToolReply = "once",
    privacy: Privacy = Privacy.CLOUD_OK,
    of_tools: Privacy = Privacy.LOCAL_ONLY,
) -> tuple[Conversations, str, list[object], list[AskedCall]]:
    asked: list[AskedCall] = []

    async def ask(_: str, call: AskedCall) -> ToolReply:
        asked.append(call)
        return reply

    store = Conversations()
    conversation = store.begin()
    store.ask(conversation, "What time is it?", privacy)
    desk, options = ToolDesk([TimeTools()], ask), AnswerOptions(privacy=privacy)
    stream = answer_with_tools(engine, store, conversation, options, desk, privacy=of_tools)
    return store, conversation, [item async for item in stream], asked


async def test_a_call_is_asked_about_made_kept_and_answered_from() -> None:
    engine = ScriptedEngine(script=scripted)
    store, conversation, items, asked = await talk(engine)
    assert [each.shown for each in asked] == ['current_time(zone="UTC")']
    turns = store.read(conversation).turns
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert turns[1].content == "Let me look." and turns[1].calls == turns[2].calls
    assert "UTC" in turns[2].content and turns[3].content == f"It is {turns[2].content}"
    assert "tool_call" not in "".join(each.text for each in items if isinstance(each, Delta))
    assert [type(each) for each in items if not isinstance(each, Delta)] == [ToolRun, Finish]
    first, second = engine.requests
    assert first.tools and second.messages[1].tool_calls[0].name == "current_time"
    assert second.messages[2].tool_call_id == second.messages[1].tool_calls[0].id


async def test_what_is_refused_is_not_called() -> None:
    engine = ScriptedEngine(script=scripted)
    _, _, items, _ = await talk(engine, reply="no")
    assert [bool(request.tools) for request in engine.requests] == [True, False]
    (run,) = [each for each in items if isinstance(each, ToolRun)]
    assert run.result.failed and "UTC" not in run.result.text


async def test_what_a_tool_answered_does_not_leave() -> None:
    cloud = ScriptedEngine(script=scripted)
    hybrid = Hybrid(ScriptedEngine(script=scripted), cloud, options=HybridOptions(forced="cloud"))
    await talk(hybrid)
    assert [request.messages[-1].role for request in cloud.requests] == ["user"]
    await talk(hybrid, of_tools=Privacy.CLOUD_OK)
    assert [request.messages[-1].role for request in cloud.requests] == ["user", "user", "tool"]


async def test_a_model_that_calls_for_ever_is_stopped() -> None:
    def other_zone(request: Request) -> Sequence[str]:
        return (CALL.replace("UTC", f"Etc/GMT+{len(request.messages) // 2}"),)

    store, conversation, items, asked = await talk(ScriptedEngine(script=other_zone))
    assert len(asked) == MAX_ROUNDS and isinstance(items[-1], Finish)
    assert store.read(conversation).turns[-1].role == "assistant"


async def test_a_call_that_is_repeated_is_not_made_or_asked_about_again() -> None:
    engine = ScriptedEngine(script=lambda request: (CALL if request.tools else "done",))
    store, conversation, _, asked = await talk(engine)
    assert len(asked) == 1 and [bool(request.tools) for request in engine.requests] == [
        True,
        True,
        False,
    ]
    turns = store.read(conversation).turns
    assert turns[-1].content == "done" and turns[2].content == turns[4].content


async def test_a_template_without_tools_is_told_and_answers_without() -> None:
    store, conversation, items, _ = await talk(WithoutTools(("plain",)))
    (trouble,) = [each for each in items if isinstance(each, ToolTrouble)]
    assert "answered without tools" in trouble.reason
    assert [turn.content for turn in store.read(conversation).turns][1:] == ["plain"]


async def test_a_call_that_was_never_answered_is_not_handed_on() -> None:
    store, conversation, _, _ = await talk(ScriptedEngine(script=scripted))
    store.versions.show(conversation, store.read(conversation).turns[1].id)
    store.ask(conversation, "And now?")
    assert not any(each.tool_calls for each in store.read(conversation).messages())
