"""HTTP app of the assistant: the page and its API for conversations, answers and settings."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from backbone.errors import NearfarError
from edge.assistant.access import DOCUMENTS_PATH, PageAccess
from edge.assistant.cloud_manager import CloudManager
from edge.assistant.engine_settings import AssistantEngine, SettingsChange
from edge.assistant.http_bodies import as_json, in_words, on_error, read_body, told, wants_chinese
from edge.assistant.language import spoken
from edge.assistant.ledger_rows import listed
from edge.assistant.model_manager import ModelManager
from edge.assistant.page_documents import PageDocuments
from edge.assistant.running_answers import Event, RunningAnswers, finish_event
from edge.assistant.transfers import Transfers
from edge.chat.consent import Reply
from edge.chat.dialogue import AnswerOptions
from edge.chat.presets import Preset, keep_preset, read_presets
from edge.chat.status_line import link_state
from edge.chat.upgrade_answers import AnswerUpgrader
from edge.conversations.conversation import Turn, export
from edge.conversations.forget import discard
from edge.conversations.store import Conversations
from edge.conversations.trash import emptied
from edge.near import cloud_watch
from edge.tools.desk import ToolReply, open_desk
from offload.errors import RequestError
from offload.messages import MAX_PICTURES, Count, Privacy, Side
from offload.pictures import picture_of

PAGE = Path(__file__).parent / "page"
MAX_TOKENS = 1024
_MOST_LISTED = 100_000  # conversations


class PageQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question; `side` None leaves it to the policy. An empty text answers the last one anew.

    `edits` is the turn in whose place it is asked. `resume` goes on with the last answer instead.
    `documents` are the ids of those that are searched for it.
    `private` keeps it here whatever the settings say by now: it was written while they said so.
    """

    text: str = ""
    side: Side | None = None
    private: bool = False
    edits: Count = 0
    resume: bool = False
    documents: tuple[str, ...] = ()
    pictures: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_PICTURES)] = ()


class ChosenVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The turn whose version is to be shown."""

    turn: Count


class HeadingChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change of a conversation's heading; what is None stays."""

    title: str | None = None
    pinned: bool | None = None


class SaidToCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a person said when asked whether a tool may be called."""

    reply: ToolReply


class ConsentReply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Consent reply: what a person said when asked whether text may leave."""

    reply: Reply


def build_app(
    assistant: AssistantEngine,
    store: Conversations,
    answers: RunningAnswers,
    *,
    token: str,
    beside: Starlette | None = None,
    beside_paths: frozenset[str] = frozenset(),
) -> Starlette:
    """Return the ASGI app; it closes the engine when it ends.

    `beside` answers the paths that are not the page's, behind the same door but for the token:
    it has keys of its own. `beside_paths` are those of them that look like the page's API.
    """
    api = _Api(assistant, store, answers)
    upgrader = AnswerUpgrader(assistant.outbox, store)
    answers.after, answers.preview = upgrader.nudge, assistant.preview
    one = "/api/conversations/{id}"

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(upgrader.watching(lambda: assistant.engine))
            await stack.enter_async_context(emptied(store.trash, api.erase))
            await stack.enter_async_context(cloud_watch.watching(lambda: assistant.engine))
            if beside is not None:  # a mounted app's own beginning and end are not run otherwise
                await stack.enter_async_context(beside.router.lifespan_context(beside))
            yield
        await answers.stop_all()
        await api.close()
        await assistant.aclose()

    return Starlette(
        routes=[
            Route("/", lambda _: FileResponse(PAGE / "index.html")),
            # A service worker commands only what lies below its own address.
            Route("/worker.js", lambda _: FileResponse(PAGE / "worker.js")),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/api/status", api.status),
            Route("/api/settings", api.settings, methods=["PATCH"]),
            Route("/api/ledger", api.ledger),
            *ModelManager(assistant).routes(),
            *Transfers(assistant, store).routes(),
            *CloudManager(assistant, answers, assistant.here).routes(),
            Route("/api/presets", api.presets),
            Route("/api/presets/{name}", api.keep_preset, methods=["PUT"]),
            Route("/api/presets/{name}", api.remove_preset, methods=["DELETE"]),
            Route("/api/conversations", api.conversations),
            Route("/api/conversations", api.begin, methods=["POST"]),
            Route(one, api.read),
            Route(one, api.change, methods=["PATCH"]),
            Route(one, api.delete, methods=["DELETE"]),
            Route(f"{one}/export", api.export),
            Route(f"{one}/pictures/{{number:int}}", api.picture),
            Route(f"{one}/ask", api.ask, methods=["POST"]),
            Route(f"{one}/stream", api.stream),
            Route(f"{one}/version", api.version, methods=["POST"]),
            Route(f"{one}/restore", api.restore, methods=["POST"]),
            Route(f"{one}/stop", api.stop, methods=["POST"]),
            Route(f"{one}/consent", api.consent, methods=["POST"]),
            Route(f"{one}/call", api.call_reply, methods=["POST"]),
            Route(DOCUMENTS_PATH, api.take_document, methods=["POST"]),
            *([Mount("", beside)] if beside is not None else []),
        ],
        lifespan=lifespan,
        middleware=[Middleware(PageAccess, token=token, others=beside_paths)],
        exception_handlers={NearfarError: on_error},
    )


class _Api:
    """API of the page: conversations, answers, settings."""

    def __init__(
        self, assistant: AssistantEngine, store: Conversations, answers: RunningAnswers
    ) -> None:
        self._assistant, self._store, self._answers = assistant, store, answers
        self._documents = PageDocuments(store, assistant.here)
        self._desk = open_desk(assistant.settings.tools, assistant.here, answers.ask_call)

    async def close(self) -> None:
        """End the servers of tools."""
        await self._desk.aclose()

    async def take_document(self, request: Request) -> Response:
        """Read a file that was dropped on the page."""
        name = Path(request.query_params.get("name", "")).name or "document"
        return as_json(await self._documents.take(self._assistant.settings, name, request.stream()))

    async def call_reply(self, request: Request) -> Response:
        """Take what a person said to a call of a tool."""
        self._answers.reply_call(_id(request), (await read_body(request, SaidToCall)).reply)
        return as_json({})

    async def status(self, request: Request) -> Response:
        return in_words(request, self._assistant.status())

    async def settings(self, request: Request) -> Response:
        change = await read_body(request, SettingsChange)
        async with self._assistant.lock:
            if self._answers.any_running or self._assistant.current.num_running:
                raise RequestError("an answer is being written; stop it first")
            await self._assistant.change(change)
        return in_words(request, self._assistant.status())

    async def conversations(self, request: Request) -> Response:
        wanted = request.query_params.get("q", "").strip()
        if wanted:
            return as_json(self._store.search(wanted))
        return as_json([{"heading": each, "excerpt": ""} for each in self._store.headings()])

    async def ledger(self, request: Request) -> Response:
        """Tell what left this device, the newest first, as far as it is searched for."""
        words, kind = (request.query_params.get(name, "") for name in ("q", "kind"))
        titles = {each.id: each.title for each in self._store.headings(_MOST_LISTED)}
        path = self._assistant.ledger
        return in_words(request, await asyncio.to_thread(listed, path, titles, words, kind))

    async def begin(self, _: Request) -> Response:
        system = self._assistant.preset().system
        return as_json({"id": self._store.begin(system=system, privacy=self._assistant.privacy)})

    async def read(self, request: Request) -> Response:
        whole = self._store.read(_id(request), pictures=False)
        turns = [_shown(turn) for turn in whole.turns]
        document = {
            "heading": whole.heading,
            "system": whole.system,
            "turns": turns,
            "documents": self._documents.listed(whole.heading.id),
            "running": self._answers.is_running(whole.heading.id),
        }
        return in_words(request, document)

    async def change(self, request: Request) -> Response:
        wanted = await read_body(request, HeadingChange)
        if wanted.title is not None:
            self._store.rename(_id(request), wanted.title)
        if wanted.pinned is not None:
            self._store.pin(_id(request), wanted.pinned)
        return as_json({})

    async def presets(self, _: Request) -> Response:
        return as_json(read_presets(self._assistant.presets_file))

    async def keep_preset(self, request: Request) -> Response:
        preset = await read_body(request, Preset)
        keep_preset(str(request.path_params["name"]), preset, self._assistant.presets_file)
        return as_json({})

    async def remove_preset(self, request: Request) -> Response:
        keep_preset(str(request.path_params["name"]), None, self._assistant.presets_file)
        return as_json({})

    async def delete(self, request: Request) -> Response:
        """Put a conversation into the trash: out of all lists, and asked nowhere any more."""
        await self._answers.forget(_id(request))
        discard(_id(request), self._store)
        return as_json({})

    async def erase(self, conversation: str) -> None:
        """Delete a conversation everywhere on this device, for good."""
        async with self._assistant.lock:
            await self._assistant.forget(conversation, self._store)

    async def restore(self, request: Request) -> Response:
        return as_json({"id": self._store.trash.restore(_id(request))})

    async def version(self, request: Request) -> Response:
        """Show another version, and what followed it."""
        self._answers.require_idle(_id(request))
        self._store.versions.choose(_id(request), (await read_body(request, ChosenVersion)).turn)
        return as_json({})

    async def export(self, request: Request) -> Response:
        wants_json = request.query_params.get("form") == "json"
        text = export(self._store.read(_id(request)), "json" if wants_json else "markdown")
        return Response(text, media_type="application/json" if wants_json else "text/markdown")

    async def picture(self, request: Request) -> Response:
        shown = self._store.picture(_id(request), int(request.path_params["number"]))
        return Response(shown.data, media_type=shown.media_type)

    async def ask(self, request: Request) -> Response:
        """Begin to answer: a new question, or the last one anew."""
        conversation, question = _id(request), await read_body(request, PageQuestion)
        if question.text.strip():
            settings, text = self._assistant.settings, question.text.strip()
            documents = question.documents
            text = await self._documents.question(settings, conversation, documents, text)
            question = msgspec.structs.replace(question, text=text)
        async with self._assistant.lock:
            self._begin_answer(conversation, question)
        return as_json({}, status=202)

    def _begin_answer(self, conversation: str, question: PageQuestion) -> None:
        self._answers.require_idle(conversation)
        pictures = tuple(map(picture_of, question.pictures))
        if question.text.strip() or pictures:
            privacy = Privacy.LOCAL_ONLY if question.private else self._assistant.privacy
            if question.edits:
                self._store.versions.before(conversation, question.edits)
            self._store.ask(conversation, question.text.strip(), privacy, pictures)
        elif question.side == "cloud" and link_state(self._assistant.engine) == "none":
            raise RequestError("there is no far model to ask now; look at the switch Private")
        elif question.resume:
            pass  # what cannot go on is said below
        elif self._store.versions.unanswer(conversation) is None:
            raise RequestError("there is nothing to answer again; ask something first")
        temperature = self._assistant.settings.edge.temperature
        sampling = self._assistant.preset().sampling(temperature, max_tokens=MAX_TOKENS)
        options = AnswerOptions(privacy=self._assistant.privacy, sampling=sampling)
        outbox = self._assistant.outbox if self._assistant.has_cloud else None
        options = replace(options, forced=question.side, outbox=outbox)
        self._answers.start(
            self._assistant.engine, conversation, options, desk=self._desk, resume=question.resume
        )

    async def stream(self, request: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            async for event in self._answers.follow(_id(request)):
                yield b"data: " + msgspec.json.encode(_event(request, event)) + b"\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def stop(self, request: Request) -> Response:
        await self._answers.stop(_id(request))
        return as_json({})

    async def consent(self, request: Request) -> Response:
        self._answers.reply(_id(request), (await read_body(request, ConsentReply)).reply)
        return as_json({})


def _id(request: Request) -> str:
    return str(request.path_params["id"])


def _shown(turn: Turn) -> dict[str, Any]:
    """Return a turn with what its reader is told of it."""
    whole: dict[str, Any] = msgspec.to_builtins(turn)
    if turn.better is not None:
        whole["better"].update(finish_event(turn.better.finish))
    whole["can_go_on"] = turn.can_go_on
    return {**whole, **(finish_event(turn.finish) if turn.finish else {})}


def _event(request: Request, event: Event) -> Event:
    """Return an event with its sentences in the page's language."""
    error = event.get("error")
    if isinstance(error, NearfarError):
        return {**event, "error": told(request, error)}
    return cast(Event, spoken(event, in_chinese=wants_chinese(request)))
