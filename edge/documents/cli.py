"""Commands `nearfar documents`: index a folder, search, list and forget; and `nearfar embed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.files import expanded
from backbone.terminal_text import echo, echo_json, printable
from edge.near.flags import Json, Model

if TYPE_CHECKING:
    from edge.documents.search import DocumentSearch
    from offload.documents.document import Passage

documents_app = typer.Typer(
    help="Folders of documents, indexed on this device to be asked about.", no_args_is_help=True
)
embed_app = typer.Typer()

Folder = Annotated[str, typer.Argument(help="A folder of texts, Markdown, code and PDFs.")]


@documents_app.command()
def index(folder: Folder, as_json: Json = False) -> None:
    """Read a folder into its index, or what changed in it since."""
    import asyncio

    asyncio.run(_index(expanded(folder), as_json=as_json))


async def _index(folder: Path, *, as_json: bool) -> None:
    from contextlib import aclosing

    def told(source: str) -> None:
        if not as_json:
            echo(printable(source), err=True, faint=True)

    def embedded(done: int, of: int) -> None:
        if not as_json:
            echo(f"embedded {done} of {of} passages", err=True, faint=True)

    async with aclosing(_search()) as search:
        opened, done = search.of_folder(folder, told)
        await search.embed_passages(opened, embedded)
        row = {
            "folder": str(folder),
            "files": done.num_files,
            "read": done.num_read,
            "gone": done.num_gone,
            "unread": list(done.unread),
            "passages": opened.num_passages,
        }
    if as_json:
        echo_json(json.dumps(row, ensure_ascii=False))
        return
    for reason in done.unread:
        echo(printable(f"left out: {reason}"), err=True)
    echo(
        f"{done.num_files} files, {opened.num_passages} passages; "
        f'`nearfar ask --file {folder} "..."` asks about them'
    )


@documents_app.command()
def search(
    words: Annotated[str, typer.Argument(help="A question, or words of it.")],
    folder: Annotated[str, typer.Option("--in", help="The folder; without one all of them.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=64, help="The best so many.")] = 5,
    as_json: Json = False,
) -> None:
    """Show the passages that may answer, with their places; nothing is asked of a model."""
    import asyncio

    from backbone.errors import WrongUsage

    folders = [expanded(folder)] if folder else [Path(each) for each in _indexed()]
    if not folders:
        raise WrongUsage("nothing is indexed yet; `nearfar documents index FOLDER` does that")
    found = asyncio.run(_found(folders, words, limit))
    if as_json:
        rows = [{"name": each.name, "place": each.place, "text": each.text} for each in found]
        echo_json(json.dumps(rows, ensure_ascii=False))
        return
    for each in found:
        echo(printable(f"{each.title}:\n{each.text}\n"))


async def _found(folders: list[Path], words: str, limit: int) -> list[Passage]:
    from contextlib import aclosing

    async with aclosing(_search()) as search:
        indexes = [search.of_folder(each)[0] for each in folders if each.is_dir()]
        return (await search.find(indexes, words, 1 << 30))[:limit]


@documents_app.command("list")
def list_indexes(as_json: Json = False) -> None:
    """List the folders that are indexed."""
    known = _indexed()
    if as_json:
        echo_json(json.dumps(known, ensure_ascii=False))
        return
    for folder, number in known.items():
        echo(printable(f"{number:8} passages  {folder}"))
    if not known:
        echo("nothing is indexed; `nearfar documents index FOLDER` does that")


def _indexed() -> dict[str, int]:
    """Return how many passages there are of each folder that is indexed."""
    from offload.config.places import places
    from offload.documents.index import DocumentIndex

    opened = [DocumentIndex(path) for path in sorted(places().indexes.glob("*.sqlite"))]
    return {each.about: each.num_passages for each in opened}


@documents_app.command()
def forget(folder: Folder, as_json: Json = False) -> None:
    """Delete the index of a folder; its files stay as they are."""
    from backbone.errors import WrongUsage
    from edge.documents.folder import index_file
    from offload.config.places import places

    path = index_file(expanded(folder), places().indexes)
    if not path.exists():
        raise WrongUsage(f"{folder} is not indexed; `nearfar documents list` shows what is")
    for each in (path, *path.parent.glob(f"{path.name}-*")):
        each.unlink(missing_ok=True)
    if as_json:
        echo_json(json.dumps({"folder": folder, "deleted": True}))
    else:
        echo(f"the index of {folder} is deleted")


@embed_app.command(rich_help_panel="Ask")
def embed(
    texts: Annotated[list[str], typer.Argument(help="The texts.")],
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Print the vector of each text, as a JSON line, by the near model or another GGUF file."""
    import asyncio

    vectors = list(asyncio.run(_vectors(texts, model)))
    for each in [vectors] if as_json else vectors:
        echo_json(json.dumps(each))


async def _vectors(texts: list[str], model: str | None) -> list[list[float]]:
    from contextlib import aclosing

    async with aclosing(_search(model or "")) as search:
        return await search.embed(texts)


def _search(model: str = "") -> DocumentSearch:
    """Return a search by the settings, or with another model that embeds."""
    from dataclasses import replace

    from edge.documents.search import DocumentSearch
    from offload.config.places import places
    from offload.config.settings_reading import load

    settings = load(places().config_file)
    if model:
        documents = replace(settings.documents, embedding_model=model)
        settings = replace(settings, documents=documents)
    return DocumentSearch(settings, places())
