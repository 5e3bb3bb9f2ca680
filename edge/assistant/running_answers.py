"""Running answers of the assistant: each goes on without a page, and can be joined midway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from typing import Any, cast

import msgspec

from backbone.errors import NearfarError
from edge.chat.chat import remarks
from edge.chat.consent import Reply
from edge.chat.dialogue import AnswerOptions, unfinished
from edge.chat.terminal import why
from edge.chat.tool_rounds import AnswerItem, ToolRun, ToolTrouble, answer_with_tools
from edge.conversations.store import Conversations
from edge.tools.desk import AskedCall, ToolDesk, ToolReply
from offload.egress.preview import Preview, Previewer, preview, previewed
from offload.egress.privacy.findings import Rules
from offload.engine import Engine
from offload.errors import RequestError
from offload.messages import Finish, Request, Side
from offload.reading import heard_by
from offload.reasons import sentence

Event = dict[str, Any]


class RunningAnswers:
    """Running answers: the last of each conversation, being written, or how it ended."""

    def __init__(self, store: Conversations) -> None:
        self._store = store
        self._last: dict[str, _Answer] = {}
        self.preview: Previewer = partial(preview, rules=Rules())  # of what would leave
        self.after: Callable[[], None] = lambda: None  # called whenever an answer has ended

    @property
    def any_running(self) -> bool:
        """Whether anything is being written."""
        return any(not each.task.done() for each in self._last.values())

    def require_idle(self, conversation: str) -> None:
        """Raise RequestError while this conversation is being answered."""
        if self._running(conversation) is not None:
            raise RequestError("an answer is being written; stop it first")

    def start(
        self,
        engine: Engine,
        conversation: str,
        options: AnswerOptions,
        *,
        desk: ToolDesk | None = None,
        resume: bool = False,
    ) -> None:
        """Begin to answer a conversation's last question, or go on with its last answer.

        Raises RequestError if it is being answered already, or there is nothing to go on with.
        """
        self.require_idle(conversation)
        begun = unfinished(self._store.read(conversation)).content if resume else ""
        stream = answer_with_tools(
            engine,
            self._store,
            conversation,
            options,
            desk,
            privacy=options.privacy,
            resume=resume,
        )
        going = _Answer(stream, begun)
        going.task.add_done_callback(lambda _: self.after())
        self._last[conversation] = going

    def _running(self, conversation: str) -> _Answer | None:
        going = self._last.get(conversation)
        return going if going is not None and not going.task.done() else None

    def is_running(self, conversation: str) -> bool:
        """Whether this conversation is being answered."""
        return self._running(conversation) is not None

    async def stop(self, conversation: str) -> None:
        """Stop an answer and keep what there is of it; without one, do nothing."""
        going = self._running(conversation)
        if going is not None:
            going.task.cancel()
            await asyncio.wait([going.task])

    async def forget(self, conversation: str) -> None:
        """Stop an answer, and keep nothing of it here."""
        await self.stop(conversation)
        self._last.pop(conversation, None)

    async def stop_all(self) -> None:
        """Stop every answer."""
        for conversation in list(self._last):
            await self.stop(conversation)

    async def consent(self, request: Request) -> Reply:
        """Ask whoever watches a conversation; where nobody does, it does not leave."""
        going = self._running(request.session or "")
        if going is None:
            return "nobody"
        return await going.ask(await previewed(self.preview, request))

    async def ask_call(self, conversation: str, asked: AskedCall) -> ToolReply:
        """Ask whoever watches a conversation whether a tool may be called."""
        going = self._running(conversation)
        return "no" if going is None else await going.ask_call(asked)

    def reply_call(self, conversation: str, reply: ToolReply) -> None:
        """Hand on what a person said when asked about a call."""
        going = self._running(conversation)
        if going is not None:
            going.reply_call(reply)

    def refused(self, request: Request) -> None:
        """Keep what a person did not let go on this device, for good."""
        if request.session:
            self._store.keep_here(request.session)

    def reply(self, conversation: str, reply: Reply) -> None:
        """Hand on what a person said when asked."""
        going = self._running(conversation)
        if going is not None:
            going.reply(reply)

    async def follow(self, conversation: str) -> AsyncIterator[Event]:
        """Yield what there is of the last answer, then what comes, to its end."""
        going = self._last.get(conversation)
        if going is not None:
            async for event in going.follow():
                yield event


class _Answer:
    """Running answer, its watchers, and the question it may have for them."""

    def __init__(self, stream: AsyncGenerator[AnswerItem, None], begun: str) -> None:
        self._text, self._source = begun, ""
        self._watchers: set[asyncio.Queue[Event | None]] = set()
        self._question: Event | None = None
        self._reading: Event | None = None
        self._reply: asyncio.Future[Reply] | None = None
        self._call_reply: asyncio.Future[ToolReply] | None = None
        self._troubles: list[str] = []
        self._end: Event = {"type": "stopped"}
        self._ended = False
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: AsyncGenerator[AnswerItem, None]) -> None:
        try:
            with heard_by(self._hear):
                async with contextlib.aclosing(stream):
                    async for item in stream:
                        self._take(item)
        except NearfarError as error:
            self._end = {"type": "error", "error": error}
        except asyncio.CancelledError:
            pass
        finally:
            self._ended = True
            for watcher in self._watchers:
                watcher.put_nowait(self._end)
                watcher.put_nowait(None)

    def _hear(self, num_read: int, num_tokens: int, side: Side) -> None:
        if not self._text and not self._ended:
            self._reading = {"type": "reading", "side": side, "read": num_read, "of": num_tokens}
            self._tell(self._reading)

    def _take(self, item: AnswerItem) -> None:
        if isinstance(item, Finish):
            built = cast(Event, msgspec.to_builtins(item))
            told = finish_event(item)
            told["remarks"] = [*self._troubles, *told["remarks"]]
            self._end = {"type": "finish", **told, "finish": built}
            return
        if isinstance(item, ToolTrouble):
            self._troubles.append(item.reason)
            return
        if isinstance(item, ToolRun):
            self._text = self._source = ""  # the answer goes on in a turn of its own
            self._tell({"type": "tool", "shown": item.asked.shown, "result": item.result.text})
            return
        self._text = item.apply(self._text)
        self._source = item.source or self._source
        self._tell(
            {
                "type": "delta",
                "text": item.text,
                "source": self._source,
                "replaces": item.replaces,
            }
        )

    async def ask(self, shown: Preview) -> Reply:
        built = cast(Event, msgspec.to_builtins(shown))
        self._question = {"type": "consent", **built, "blocked": shown.blocked}
        self._reply = asyncio.get_running_loop().create_future()
        self._tell(self._question)
        try:
            return await self._reply
        finally:
            self._question = self._reply = None
            self._tell({"type": "consented"})

    async def ask_call(self, asked: AskedCall) -> ToolReply:
        self._question = {"type": "call", "shown": asked.shown, "server": asked.server}
        self._call_reply = asyncio.get_running_loop().create_future()
        self._tell(self._question)
        try:
            return await self._call_reply
        finally:
            self._question = self._call_reply = None
            self._tell({"type": "call_answered"})

    def reply_call(self, reply: ToolReply) -> None:
        if self._call_reply is not None and not self._call_reply.done():
            self._call_reply.set_result(reply)

    def reply(self, reply: Reply) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(reply)

    async def follow(self) -> AsyncIterator[Event]:
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        queue.put_nowait({"type": "so_far", "text": self._text, "source": self._source})
        if self._reading is not None and not self._text:
            queue.put_nowait(self._reading)
        if self._question is not None:
            queue.put_nowait(self._question)
        if self._ended:
            queue.put_nowait(self._end)
            queue.put_nowait(None)
        self._watchers.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._watchers.discard(queue)

    def _tell(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(event)


def finish_event(finish: Finish) -> Event:
    """Return what a reader is told of a finished answer, in sentences."""
    route = finish.route
    reason = sentence(route.reason, route.confidence) if route else ""
    rest = remarks(finish, longer="ask it to go on")
    return {"why": why(finish), "reason": reason, "remarks": list(rest)}
