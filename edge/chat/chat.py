"""Chat loop at a terminal: reads lines, keeps what is said, and stops an answer at Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backbone.errors import NearfarError
from backbone.stop_signals import on_signals
from edge.chat.dialogue import AnswerOptions
from edge.chat.past_turns import past_turns
from edge.chat.screen import HELP, Command, LeaveChat, Screen, is_command
from edge.chat.terminal import ThoughtFolding, why
from edge.chat.tool_rounds import AnswerItem, ToolRun, ToolTrouble, answer_with_tools
from edge.chat.upgrade_answers import AnswerUpgrader
from edge.conversations.attachments import apart
from edge.conversations.forget import forget
from edge.conversations.store import Conversations
from edge.conversations.trash import emptied
from edge.documents.attached import AttachedDocuments, attached_documents
from edge.near import cloud_watch
from edge.near.switch_model import ModelSwitch
from edge.tools.desk import ToolDesk
from offload.config.places import places
from offload.config.settings import Settings
from offload.documents.document import Document
from offload.engine import Engine
from offload.messages import Delta, Finish, Picture, Privacy, Side
from offload.reading import heard_by, reading_line
from offload.thinking import split

_WIDTH = 200  # of what a tool answered, as it is shown


class Chat:
    """Chat of one person with one engine, one conversation at a time.

    `changing` loads another near model by its name, for /model; `sessions` is where the near model
    keeps what it computed; `upgrader` asks again what waits for the cloud. `privacy` tells the
    class of what is said now; without it that is the options'. `settle` is asked after each answer
    what a person has not said yet. `attached` are documents, whose class `privacy_of_documents`
    tells.
    """

    def __init__(
        self,
        engine: Engine,
        screen: Screen,
        store: Conversations,
        *,
        options: AnswerOptions,
        commands: Mapping[str, Command],
        system: str = "",
        conversation: str | None = None,
        sessions: Path | None = None,
        changing: ModelSwitch | None = None,
        upgrader: AnswerUpgrader | None = None,
        privacy: Callable[[], Privacy] | None = None,
        settle: Callable[[Finish], Awaitable[None]] | None = None,
        attached: AttachedDocuments | None = None,
        privacy_of_documents: Callable[[], Privacy] | None = None,
        desk: ToolDesk | None = None,
    ) -> None:
        self.engine = engine
        self.screen = screen
        self.store = store
        self._manner = options
        self._commands = commands
        self._privacy = privacy
        self._of_documents = privacy_of_documents or (lambda: self.privacy)
        self.desk = desk
        self._settle = settle
        self.system = store.read(conversation).system if conversation else system
        self.conversation = conversation
        self.sessions = sessions or places().cache / "sessions"
        self.changing = changing
        self.upgrader = upgrader
        self._met: set[int] = set()  # turns whose better answer was shown
        self.attached = attached or attached_documents(Settings(), places())
        self.last: Finish | None = None
        self.thoughts = ""  # what was thought before the last answer
        self.explanation = ""  # how the last answer of this run came about
        self._job: asyncio.Future[None] | None = None  # the answer that is being written
        # Documents and pictures of the last question.
        self._asked_with: tuple[list[Document], list[Picture]] = ([], [])
        self._edits = False  # whether it was stopped to change its question
        self.failed = False  # whether anything that was asked came to nothing

    @property
    def options(self) -> AnswerOptions:
        """How the next answer is wished, of the class that holds now."""
        return replace(self._manner, privacy=self.privacy)

    @options.setter
    def options(self, options: AnswerOptions) -> None:
        self._manner = options

    @property
    def privacy(self) -> Privacy:
        """The class of what is said now: the settings may have changed since the last question."""
        return self._privacy() if self._privacy else self._manner.privacy

    async def run(self, first: str = "") -> None:
        """Carry the conversation on until the input ends or the person leaves."""
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(contextlib.suppress(LeaveChat))
            await stack.enter_async_context(emptied(self.store.trash, self._erase))
            await stack.enter_async_context(cloud_watch.watching(lambda: self.engine))
            if self.upgrader is not None:
                watching = self.upgrader.watching(lambda: self.engine)
                await stack.enter_async_context(watching)
            self._show_better()
            if self.conversation is not None:
                await self.attach_again()
            if first:
                await self._take(first)
            while True:
                self._show_better()
                try:
                    line = await self.screen.read()
                except (EOFError, KeyboardInterrupt):
                    return
                await self._take(line)

    async def attach_again(self) -> None:
        """Attach what stayed attached to the conversation that is opened."""
        assert self.conversation is not None, "one was opened"
        for path in self.store.documents(self.conversation):
            try:
                await asyncio.to_thread(self.attached.attach, path)
            except NearfarError as error:
                self.screen.remark(f"no longer attached: {error}")

    def show_past(self) -> None:
        """Show the title and the last turns of the conversation."""
        assert self.conversation is not None, "one was opened"
        for line in past_turns(self.store.read(self.conversation)):
            self.screen.remark(line)

    async def _erase(self, conversation: str) -> None:
        await forget(conversation, self.store, self.engine, self.sessions)

    def _closest(self, name: str) -> str:
        """Return a guess at what was meant, as the end of a sentence."""
        near = difflib.get_close_matches(name, self._commands, n=1)
        return f" (did you mean {near[0]}?)" if near else ""

    def _show_better(self) -> None:
        """Show the better answers that have come since, each beside its first one."""
        if self.upgrader is None or self.conversation is None:
            return
        self.upgrader.nudge()
        for turn in self.store.read(self.conversation).turns:
            if turn.better is not None and turn.id not in self._met:
                self._met.add(turn.id)
                self.screen.remark("the far model is back: a better answer is ready")
                self.screen.remark(f"near: {split(turn.content).answer.strip()}")
                self.screen.remark(f"far:  {split(turn.better.content).answer.strip()}")

    async def _take(self, line: str) -> None:
        try:
            name, _, rest = line.strip().partition(" ")
            if name in self._commands:
                await self._commands[name].act(self, rest.strip())
            elif is_command(line):
                self._fail(f"there is no {name}{self._closest(name)}; {HELP}")
            elif line.strip():
                await self.ask(line.strip())
        except NearfarError as error:
            self._fail(str(error))

    def _fail(self, message: str) -> None:
        self.failed = True
        self.screen.fail(message)

    async def ask(
        self, text: str, forced: Side | None = None, *, before: int | None = None
    ) -> None:
        """Ask, and show the answer; where that fails, what was shown `before` is shown again."""
        whole = await self.attached.question(text)
        privacy = self.privacy if whole == text else self._of_documents()
        if self.conversation is None:
            self.conversation = self.store.begin(system=self.system, privacy=self.privacy)
        before = self.store.versions.tip(self.conversation) if before is None else before
        self.store.ask(self.conversation, whole, privacy, self.attached.pictures)
        self.store.keep_documents(self.conversation, self.attached.paths)
        self._asked_with = self.attached.asked()
        await self.answer(forced, before=before)

    async def answer(
        self, forced: Side | None = None, *, before: int, resume: bool = False
    ) -> None:
        """Answer the question that stands last, or go on with its answer.

        What fails is left for what was shown `before`.
        """
        assert self.conversation is not None, "something was asked"
        options = replace(self.options, forced=forced) if forced else self.options
        reply = _Reply(self.screen)
        stream = answer_with_tools(
            self.engine,
            self.store,
            self.conversation,
            options,
            self.desk,
            privacy=self._of_documents(),
            resume=resume,
        )
        self._job = job = asyncio.ensure_future(reply.read(stream))
        try:
            with on_signals(job.cancel, signal.SIGINT), self.screen.answering():
                await job
        except asyncio.CancelledError:
            self._stopped(reply)
        except NearfarError:
            self.store.versions.show(self.conversation, before)
            raise
        else:
            self._ended(reply)
            if self._settle is not None and reply.finish is not None:
                await self._settle(reply.finish)

    def edit_instead(self) -> None:
        """Stop the answer, and offer its question to be changed."""
        self._edits = True
        if self._job is not None:
            self._job.cancel()

    def _stopped(self, reply: _Reply) -> None:
        self.screen.end(reply.text, None)
        if self._edits:
            assert self.conversation is not None, "something was asked"
            turns = self.store.read(self.conversation).turns
            asked = next(turn.content for turn in turns[::-1] if turn.role == "user")
            self._edits = False
            self.attached.whole, self.attached.pictures = self._asked_with
            self.screen.offer(f"/edit {apart(asked).question}")
            self.screen.remark("change your question; what you send is asked in its place")
            return
        kept = "; what there is of the answer is kept" if reply.text else " before its first word"
        self.screen.remark(f"stopped{kept}")
        self.explanation = "you stopped the answer"

    def _ended(self, reply: _Reply) -> None:
        finish = reply.finish
        assert finish is not None, "an engine's stream ends with a Finish"
        self.last, self.explanation = finish, why(finish)
        self.failed = self.failed or finish.reason == "error"
        self.screen.end(reply.text, finish)
        self.thoughts = reply.folding.thoughts
        if self.thoughts:
            self.screen.remark(f"{reply.folding.summary()}; /thoughts shows it")
        for remark in remarks(finish):
            self.screen.remark(remark)


class _Reply:
    """Reader of one answer's stream: shows it on the screen and keeps the text that stands."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.folding = ThoughtFolding()
        self.text = ""
        self.finish: Finish | None = None

    async def read(self, stream: AsyncGenerator[AnswerItem, None]) -> None:
        with heard_by(self._reading):
            async with contextlib.aclosing(stream):
                async for item in stream:
                    if isinstance(item, Finish):
                        self.finish = item
                    elif isinstance(item, ToolRun):
                        self._tell(item)
                    elif isinstance(item, ToolTrouble):
                        self._screen.remark(item.reason)
                    else:
                        self._show(item)
        if rest := self.folding.rest():
            self._show(Delta(text=rest))

    def _reading(self, num_read: int, num_tokens: int, side: Side) -> None:
        if not self.text and self.finish is None:
            self._screen.reading(reading_line(num_read, num_tokens, side))

    def _tell(self, run: ToolRun) -> None:
        if self.text:
            self._show(Delta(text="\n\n"))
        lines = run.result.text.strip().splitlines() or [""]
        more = f" … ({len(lines)} lines)" if len(lines) > 1 else ""
        self._screen.remark(f"{run.asked.shown} -> {lines[0][:_WIDTH]}{more}")

    def _show(self, delta: Delta) -> None:
        had = self.folding.has_thought and not delta.replaces
        delta = self.folding.take(delta)
        if self.folding.has_thought and not had:
            self._screen.remark("thinking ...")
        self.text = delta.apply(self.text)
        if delta.text or delta.replaces:
            self._screen.show(delta)


def remarks(finish: Finish, *, longer: str = "/continue goes on with it") -> Sequence[str]:
    """Return what a person should be told of an answer without asking.

    `longer` says how an answer that was cut off goes on.
    """
    sentences = []
    if finish.error:
        sentences.append(finish.error)
    if finish.route is not None and finish.route.failure:
        sentences.append(f"the far model could not answer: {finish.route.failure}")
    if finish.route is not None and finish.route.cut:
        sentences.append("it ran in circles and was cut where that began")
    if finish.usage.placeholders_in_links:
        sentences.append(
            f"{finish.usage.placeholders_in_links} placeholders stand in links of the far model: "
            "what they stand for was not put there"
        )
    if finish.route is not None and finish.route.left_out:
        sentences.append(f"{finish.route.left_out} turns of this conversation stayed here")
    if finish.dropped_tokens:
        sentences.append(f"{finish.dropped_tokens} tokens of the oldest text have left the window")
    if finish.reason == "length":
        sentences.append(f"the answer reached its token limit; {longer}")
    if finish.reason == "deadline":
        sentences.append("the time for this answer ran out")
    return sentences
