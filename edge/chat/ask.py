"""Command `nearfar ask`: one question, from its flags to the printed answer."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from backbone.terminal_text import echo, echo_json
from edge.chat.ask_options import AskOptions, is_attended
from edge.conversations.attachments import with_note
from offload.config.places import places
from offload.config.settings import Settings
from offload.messages import Finish, Message, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.chat.terminal import StreamReader
    from offload.engine import Engine

# The chat's prompt is drawn with this alone, and `ask` has its model loaded before it imports more:
# engines and what is done with an answer are imported where they are needed.


def ask_once(text: str, wish: AskOptions, *, why: bool, as_json: bool) -> int:
    """Ask one question and print the answer; return the exit status.

    A program that reads JSON gets the likeliest answer, the same each time, unless it asks
    otherwise.
    """
    from edge.chat.terminal import StreamReader

    settings = wish.settings()
    persona = wish.persona()
    system = (Message(role="system", content=persona),) if persona else ()
    asked = Message(role="user", content=text)
    if wish.files:
        asked = asyncio.run(_with_documents(text, wish.files, settings))
    request = Request(
        messages=with_note((*system, asked)),
        sampling=wish.sampling(0.0 if as_json else settings.edge.temperature),
        privacy=wish.privacy(),
    )
    _say_rule(settings, wish)
    reader = StreamReader(quiet=as_json)
    finish = asyncio.run(_ask(settings, wish, request, reader))
    status = _report(reader, finish, wish, explain=why, as_document=as_json)
    # Who wants no network has no question wait for it.
    asked_cloud = settings.cloud.url and not wish.offline
    if asked_cloud and (notice := _of_the_outbox(request, reader.text, finish)):
        echo(f"nearfar: {notice}", err=True)
    return status


async def _with_documents(text: str, files: Sequence[str], settings: Settings) -> Message:
    """Return a question with what of the files goes with it. Raises RequestError."""
    from edge.documents.attached import attached_documents

    attached = attached_documents(settings, places())
    async with aclosing(attached.search):
        for file in files:
            one = attached.attach(file)
            if one.stays:
                told = f"{one.name} ({one.about})" if one.about else one.name
                echo(f"nearfar: of {told} the passages that may answer are read", err=True)
        asked = await attached.question(text)
    return Message(role="user", content=asked, pictures=tuple(attached.pictures))


def _say_rule(settings: Settings, wish: AskOptions) -> None:
    """Tell a script what it never chose: that its texts may leave, or may not."""
    if not settings.cloud.url or wish.local_only or is_attended():
        return
    from edge.chat.consent import say_rule
    from offload.egress.permission import LivePermission

    allowed = LivePermission(places().config_file)()
    if not allowed.is_said:
        say_rule(settings, allowed, offline=wish.offline)


def _begin_to_load(
    loader: ThreadPoolExecutor, settings: Settings, request: Request
) -> Future[Engine] | None:
    """Have the near model loaded in another thread; None where a service runs that may have it."""
    from offload.config.running_service import find

    if settings.edge.use_service and find(places()) is not None:
        return None
    from edge.near.edge_factory import edge_loader

    # The process ends behind the answer: freeing 150,000 tokens' names would only delay that.
    return loader.submit(edge_loader(settings, places(), only=request, frees_memory=False))


def _of_the_outbox(request: Request, answer: str, finish: Finish) -> str:
    """Let the question wait for the cloud if it may be bettered; return what is to be told."""
    from edge.chat.upgrade_answers import is_in_reach, waiting_line
    from offload.egress.outbox import Outbox

    outbox = Outbox(places().outbox)
    if outbox.put(request, answer, finish):
        return "it was not sure; `nearfar policy outbox --ask` asks the far model when it is back"
    return waiting_line(outbox) if is_in_reach(finish) else ""


async def _ask(
    settings: Settings, wish: AskOptions, request: Request, reader: StreamReader
) -> Finish:
    with ThreadPoolExecutor(1, "nearfar-load") as loader:
        loading = _begin_to_load(loader, settings, request)
        # More than half of all imports, while llama.cpp reads the model.
        from edge.near.factory import open_hybrid

        choice = replace(wish.choice(), only=request)
        edge = None if loading is None else loading.result()
    async with aclosing(open_hybrid(settings, places(), choice, edge=edge)) as engine:
        finish = await reader.read(engine.generate(request))
        if engine.can_learn and reader.is_live and sys.stdin.isatty():
            from edge.chat.learn_consent import choose_at_terminal, settle_learning

            await settle_learning(finish, places().config_file, choose_at_terminal)
        return finish


def _report(
    reader: StreamReader, finish: Finish, wish: AskOptions, *, explain: bool, as_document: bool
) -> int:
    from edge.chat.terminal import document
    from edge.chat.terminal import why as tell_why

    if as_document:
        echo_json(json.dumps(document(reader.text, finish, reader.thoughts), ensure_ascii=False))
    if explain:
        reason = tell_why(finish)
        echo(reason, err=True, faint=True)
    if finish.reason == "error":
        echo(f"nearfar: {finish.error}", err=True)
        return 1
    if finish.reason == "length":
        echo(
            f"nearfar: the answer reached its limit of {wish.max_tokens} tokens or the end of the "
            f"context; --max-tokens {4 * wish.max_tokens} allows more",
            err=True,
        )
    failure = finish.route.failure if finish.route else None
    if failure:
        echo(f"nearfar: answered near: {failure}", err=True)
    return 1 if wish.far and _withheld(finish) else 0


def _withheld(finish: Finish) -> bool:
    """Say why who insisted on the cloud was answered near, and return whether that was so."""
    from offload.reasons import sentence

    route = finish.route
    if route is None or route.served_by == "cloud":
        return False
    if not route.failure:
        remedy = "; set one up with `nearfar link join`" if route.reason == "no_cloud" else ""
        echo(f"nearfar: {sentence(route.reason)}{remedy}", err=True)
    return True
