"""Setup of `nearfar chat`: from its flags to a screen, an engine and a conversation."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from backbone.errors import WrongUsage
from edge.chat.ask_options import AskOptions
from edge.chat.consent import ConsentPrompt, Question, Reply, say_rule
from edge.chat.learn_consent import settle_learning
from edge.chat.leaving_text import leaving_lines
from edge.chat.past_turns import past_turns
from edge.chat.screen import HELP, PlainScreen, Screen
from edge.chat.status_line import status
from edge.conversations.store import Conversations
from offload.config.places import Places, places
from offload.config.settings import Settings
from offload.egress.outbox import Outbox
from offload.egress.permission import LivePermission
from offload.egress.preview import Preview, previewed
from offload.engine import Engine
from offload.messages import Finish, Privacy, Request
from offload.pair import EDGE_MODEL

if TYPE_CHECKING:
    from edge.chat.chat import Chat
    from edge.documents.attached import AttachedDocuments
    from edge.tools.desk import AskCall, AskedCall, ToolReply

_SHORT = 400  # characters that are shown whole at once
_DEMONSTRATION = "a small demonstration model answers; `nearfar models list --all` lists real ones"

_REPLIES: dict[str, tuple[Reply, str]] = {
    "y": ("once", "this message may"),
    "c": ("conversation", "all of this conversation may"),
    "a": ("always", "always, and do not ask again"),
    "v": ("never", "never, and do not ask again"),
    "e": ("edit", "let me change my question first"),
    "n": ("no", "not this one; answer near"),
}
_SHOW_ALL = {"s": "show all of it first"}


@dataclass(frozen=True, kw_only=True)
class ConversationChoice:
    """Conversation choice: which to go on with, and whether this one is kept."""

    latest: bool = False
    resume: str | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        if self.latest and self.resume is not None:
            raise WrongUsage("--continue and --resume name two conversations; leave one out")
        if not self.keep and (self.latest or self.resume is not None):
            raise WrongUsage("--no-keep begins a new conversation; leave out --continue, --resume")

    def choose(self, store: Conversations) -> str | None:
        """Return the id to go on with, None for a new one. Raises RequestError."""
        if self.resume is not None:
            return store.find(self.resume)
        return store.latest() if self.latest else None


def chat_on(wish: AskOptions, past: ConversationChoice, first: str, *, as_json: bool) -> int:
    """Carry on a conversation until the person leaves; return the exit status.

    Through a pipe that is 1 where anything asked came to nothing; a person has seen it.
    """
    settings, here = wish.settings(), places()
    attached = _attached(wish, settings, here) if wish.files else None
    store = Conversations(here.conversations if past.keep else None)
    try:
        assistant = _ChatRun(wish, settings, here, store, attached)
        failed = asyncio.run(assistant.run(past, first, as_json=as_json))
    finally:
        store.close()
    return int(failed and not sys.stdin.isatty())


def _attached(wish: AskOptions, settings: Settings, here: Places) -> AttachedDocuments:
    """Attach the documents that the flags name; what cannot be read is said at once."""
    from edge.documents.attached import attached_documents

    attached = attached_documents(settings, here)
    for path in wish.files or ():
        attached.attach(path)
    return attached


class _ChatRun:
    """Chat run: the engine, the screen and the store of one start."""

    def __init__(
        self,
        wish: AskOptions,
        settings: Settings,
        here: Places,
        store: Conversations,
        attached: AttachedDocuments | None,
    ) -> None:
        self._attached = attached
        self._wish, self._settings, self._here, self._store = wish, settings, here, store
        self._allowed = LivePermission(here.config_file)
        self._chat: Chat | None = None
        self._opening: Opening | None = None

    async def run(self, past: ConversationChoice, first: str, *, as_json: bool) -> bool:
        """Carry the conversation on; return whether anything that was asked came to nothing."""
        conversation = past.choose(self._store)
        if not sys.stdin.isatty() and not self._allowed().is_said:
            say_rule(self._settings, self._allowed(), offline=self._wish.offline)
        screen = self._screen(as_json=as_json)
        self._opening = Opening(lambda: self._open(self._settings, screen))
        line: str | None = first
        if conversation is not None and not as_json:
            for each in past_turns(self._store.read(conversation)):
                screen.remark(each)
        if not first and sys.stdin.isatty() and not as_json:
            screen.remark(HELP)
            if self._settings.edge.model in ("embedded", EDGE_MODEL.stem):
                screen.remark(_DEMONSTRATION)
            line = await self._opening.meanwhile(screen)
        engine = await self._opening.engine()
        try:
            if line is None:
                return False
            self._chat = self._begun(engine, screen, past, conversation)
            await self._chat.run(line)
            return self._chat.failed
        finally:
            # Which may be another by now.
            await (self._chat.engine if self._chat else engine).aclose()
            if self._chat is not None and self._chat.desk is not None:
                await self._chat.desk.aclose()

    def _begun(
        self, engine: Engine, screen: Screen, past: ConversationChoice, conversation: str | None
    ) -> Chat:
        from edge.chat.chat import Chat
        from edge.chat.chat_commands import COMMANDS
        from edge.chat.dialogue import AnswerOptions
        from edge.chat.upgrade_answers import AnswerUpgrader, waiting_line
        from edge.documents.attached import attached_documents
        from edge.near.switch_model import ModelSwitch
        from edge.tools.desk import open_desk

        outbox = self._outbox(past)
        if outbox and not self._wish.offline and (notice := waiting_line(outbox)):
            screen.remark(notice)
        chat = Chat(
            engine,
            screen,
            self._store,
            options=AnswerOptions(
                sampling=self._wish.sampling(self._settings.edge.temperature), outbox=outbox
            ),
            commands=COMMANDS,
            system=self._wish.persona(),
            conversation=conversation,
            privacy=self._privacy,
            privacy_of_documents=self._privacy_of_documents,
            attached=self._attached or attached_documents(self._settings, self._here),
            settle=self._settling(engine, screen),
            desk=open_desk(self._settings.tools, self._here, _call_asker(screen)),
            changing=ModelSwitch(
                lambda name: self._open(self._with_model(name), screen),
                self._here.models,
                current=self._settings.edge.model,
            ),
            upgrader=AnswerUpgrader(outbox, self._store) if outbox else None,
        )
        return chat

    def _settling(
        self, engine: Engine, screen: Screen
    ) -> Callable[[Finish], Awaitable[None]] | None:
        from offload.hybrid.hybrid import Hybrid

        if not sys.stdin.isatty() or not isinstance(engine, Hybrid) or not engine.can_learn:
            return None
        return lambda finish: settle_learning(finish, self._here.config_file, screen.choose)

    def _outbox(self, past: ConversationChoice) -> Outbox | None:
        if not self._settings.cloud.url or self._wish.offline:
            return None  # who wants no network has no question wait for it
        # What is not kept is not written down to wait either.
        return Outbox(self._here.outbox if past.keep else None)

    def _screen(self, *, as_json: bool) -> Screen:
        if as_json or not can_draw(os.environ):
            return PlainScreen(as_json=as_json)
        from edge.chat.rich_screen import RichScreen, model_names

        return RichScreen(
            status=self._status,
            questions=self._store.questions(),
            models=lambda: model_names(self._here.models),
        )

    def _open(self, settings: Settings, screen: Screen) -> Engine:
        from edge.near.factory import RunFlags, open_hybrid
        from edge.near.previewing import previewer

        show = previewer(self._here, lambda: self._chat.engine if self._chat else None)
        consent = ConsentPrompt(
            _asker(screen, show), self._here, refused=self._refused, edits=self._edits
        )
        choice = RunFlags(offline=self._wish.offline, consent=consent, shared=True)
        return open_hybrid(settings, self._here, choice)

    def _with_model(self, name: str) -> Settings:
        return replace(self._settings, edge=replace(self._settings.edge, model=name))

    def _refused(self, request: Request) -> None:
        if request.session:
            self._store.keep_here(request.session)

    def _edits(self, _: Request) -> None:
        assert self._chat is not None, "who is asked has asked something"
        self._chat.edit_instead()

    def _privacy(self) -> Privacy:
        return self._wish.at_least(self._allowed().class_of_text(attended=sys.stdin.isatty()))

    def _privacy_of_documents(self) -> Privacy:
        attended = sys.stdin.isatty()
        return self._wish.at_least(self._allowed().class_of_documents(attended=attended))

    def _status(self) -> str:
        if self._chat is not None:
            return status(self._chat.engine, self._chat.last)
        loaded = self._opening.loaded if self._opening else None
        return status(loaded, None) if loaded else "loading the near model"


def can_draw(environment: Mapping[str, str]) -> bool:
    """Whether both ends are a terminal that can move its cursor."""
    both = sys.stdin.isatty() and sys.stdout.isatty()
    return both and environment.get("TERM", "dumb") not in ("dumb", "unknown", "")


def _asker(screen: Screen, preview: Callable[[Request], Preview]) -> Question:
    async def ask(request: Request) -> Reply:
        shown = await previewed(preview, request)
        whole = len(shown.turns) == 1 and len(shown.turns[0].text) < _SHORT
        choices = {key: meaning for key, (_, meaning) in _REPLIES.items()}
        screen.leaving(list(leaving_lines(shown, whole=whole)))
        more = {} if whole else _SHOW_ALL
        while (reply := await screen.choose("May this leave the device?", more | choices)) == "s":
            screen.leaving(list(leaving_lines(shown, whole=True)))
        return _REPLIES[reply][0]

    return ask


def _call_asker(screen: Screen) -> AskCall:
    async def ask(_: str, asked: AskedCall) -> ToolReply:
        choices = {
            "y": "this call",
            "c": "this tool, in all of this conversation",
            "n": "no; answer without it",
        }
        question = f"May the model call {asked.shown} of {asked.server!r}?"
        replies: dict[str, ToolReply] = {"y": "once", "c": "conversation", "n": "no"}
        return replies[await screen.choose(question, choices)]

    return ask


class Opening:
    """Opening of an engine in a thread of its own, once."""

    def __init__(self, open_engine: Callable[[], Engine]) -> None:
        self._open = open_engine
        self._once = asyncio.Lock()
        self.loaded: Engine | None = None  # until it is there

    async def engine(self) -> Engine:
        """Return the engine when it is there. Raises what opening it raised."""
        async with self._once:
            if self.loaded is None:
                self.loaded = await asyncio.to_thread(self._open)
        return self.loaded

    async def meanwhile(self, screen: Screen) -> str | None:
        """Load, and return what is typed meanwhile; None where the person leaves.

        Raises what opening the engine raised, as soon as it is known: the prompt is taken away.
        """
        reading = asyncio.ensure_future(screen.read())
        await asyncio.sleep(0)  # by its first step the prompt is drawn: imports would hold it up
        loading = asyncio.ensure_future(self.engine())
        await asyncio.wait([reading, loading], return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and loading.exception() is not None:
            reading.cancel()
            await asyncio.wait([reading])
        await loading
        try:
            return await reading
        except EOFError:
            return None
