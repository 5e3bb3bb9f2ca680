"""Commands `nearfar conversations`: list, show, search, export and delete."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.terminal_text import echo, echo_json, printable

if TYPE_CHECKING:
    from edge.conversations.conversation import Heading
    from edge.conversations.store import Conversations

conversations_app = typer.Typer(
    help="Kept conversations of the chat and the assistant.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Id = Annotated[str, typer.Argument(help="The id of a conversation, or how it begins.")]


@conversations_app.command("list")
def show_list(
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 30,
    as_json: Json = False,
) -> None:
    """List the conversations, the newest first."""
    with _store() as store:
        newest = [(heading, "") for heading in store.headings(limit)]
        _show(newest, none="there is none; `nearfar chat` begins one", as_json=as_json)


@conversations_app.command()
def search(
    text: Annotated[str, typer.Argument(help="Any part of a conversation's text.")],
    as_json: Json = False,
) -> None:
    """Find conversations by any part of what was said in them."""
    with _store() as store:
        hits = [(hit.heading, hit.excerpt) for hit in store.search(text)]
        _show(hits, none=f"nothing that was said has {text!r} in it", as_json=as_json)


@conversations_app.command()
def export(
    conversation: Annotated[
        str, typer.Argument(help="The id of a conversation, or how it begins.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Every conversation, as one JSON document.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of Markdown.")] = False,
) -> None:
    """Print a whole conversation, as Markdown or JSON, or all of them."""
    from edge.conversations.conversation import export as written
    from edge.conversations.conversation import export_all

    with _store() as store:
        if everything:
            for piece in export_all(store.every()):
                echo_json(piece, end="")
            return
        whole = store.read(store.find(conversation))
        (echo_json if as_json else echo)(written(whole, "json" if as_json else "markdown"), end="")


@conversations_app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A zip, a JSON file, or a folder.")],
    as_json: Json = False,
) -> None:
    """Take over conversations: ChatGPT's export, Jan's data folder, or nearfar's own `--all`.

    What is here already is not taken twice.
    """
    from backbone.files import expanded
    from edge.conversations.conversation_import import keep_imported, read_export

    found = read_export(expanded(path))
    with _store() as store:
        kept = sum(keep_imported(store, each) for each in found.conversations)
    told = {"imported": kept, "here": len(found.conversations) - kept, "unread": found.num_unread}
    words = f"{kept} conversations were taken over, {told['here']} were here already"
    if found.num_unread:
        words += f", {found.num_unread} could not be read"
    echo_json(json.dumps(told)) if as_json else echo(words)


@conversations_app.command()
def rename(
    conversation: Id,
    title: Annotated[str, typer.Argument(help="The new title.")],
    as_json: Json = False,
) -> None:
    """Give a conversation another title."""
    with _store() as store:
        found = store.find(conversation)
        store.rename(found, title)
        _tell({"renamed": found, "title": title}, f"{found[:8]}  {title}", as_json=as_json)


@conversations_app.command()
def delete(
    conversation: Id,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Erase it at once, so that it cannot be brought back.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete a conversation; for ten minutes it can be brought back, then it is erased."""
    from edge.conversations.forget import discard, erase
    from offload.config.places import places

    with _store() as store:
        found = store.find(conversation)
        if not yes and not as_json:
            typer.confirm(printable(f"Delete {store.read(found).heading.title!r}?"), abort=True)
        discard(found, store)
        if now:
            erase([found], store, places().cache / "sessions")
        back = "" if now else f"; `nearfar conversations restore {found[:8]}` brings it back"
        _tell({"deleted": found}, f"deleted{back}", as_json=as_json)


@conversations_app.command()
def restore(
    conversation: Annotated[
        str, typer.Argument(help="The id of what was deleted; the last one unless given.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Bring back a conversation that was deleted within the last ten minutes."""
    with _store() as store:
        found = store.trash.restore(conversation)
        title = store.read(found).heading.title
        _tell({"restored": found, "title": title}, f"{found[:8]}  {title}", as_json=as_json)


@contextmanager
def _store() -> Iterator[Conversations]:
    from edge.conversations.forget import erase
    from edge.conversations.store import Conversations
    from offload.config.places import places

    store = Conversations(places().conversations)
    try:
        if over := store.trash.expired():
            erase(over, store, places().cache / "sessions")
        yield store
    finally:
        store.close()


def _show(found: list[tuple[Heading, str]], *, none: str, as_json: bool) -> None:
    import msgspec

    if as_json:
        rows = [{**msgspec.to_builtins(each), "excerpt": excerpt} for each, excerpt in found]
        echo_json(json.dumps(rows, ensure_ascii=False))
        return
    for each, excerpt in found:
        day = time.strftime("%Y-%m-%d", time.localtime(each.changed_at))
        echo(f"{each.id[:8]}  {day}  {each.title}" + (f"\n          {excerpt}" if excerpt else ""))
    if not found:
        echo(none)


def _tell(document: dict[str, str], words: str, *, as_json: bool) -> None:
    if as_json:
        echo_json(json.dumps(document, ensure_ascii=False))
    else:
        echo(words)
