"""Commands `nearfar models`: list, show, pull, remove and name models."""

from __future__ import annotations

from typing import Annotated

import typer

from backbone.terminal_text import echo, echo_json, printable

models_app = typer.Typer(help="The models on this device.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Name = Annotated[str, typer.Argument(help="The name of a model, or its path.")]


@models_app.command("list")
def list_models(
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Show the models worth fetching, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the models on this device; the embedded pair is always there."""
    import msgspec

    from backbone.process_limits import free_memory_bytes
    from edge.models.catalogue import catalogue_rows
    from edge.models.local_models import list_models as find_all
    from edge.models.local_models import read_aliases
    from offload.config.places import places

    entries = find_all(places().models)
    if as_json and not everything:
        echo_json(msgspec.json.encode(entries).decode())
        return
    listed = catalogue_rows(free_memory_bytes()) if everything else []
    if as_json:
        echo_json(msgspec.json.encode({"here": entries, "catalogue": listed}).decode())
        return
    for entry in entries:
        size = f"{entry.size_bytes / 1e6:,.1f} MB"
        vectors = "embeds" if entry.embeddings else ""
        echo(f"{entry.name:32} {entry.runs:6} {size:>12}  {vectors:6}  {entry.path}")
    for short, target in read_aliases(places().models).items():
        echo(f"{short:32} alias  of {target}")
    for row in listed:
        fits = "does not fit now" if row.misfit else "fits"
        line = f"{row.name:14} about {row.size_gb:4.2f} GB  {row.licence:20} {fits:17}"
        echo(f"{line}{row.about}")
    if not everything:
        echo("`nearfar models list --all` shows models worth fetching")


@models_app.command()
def search(
    words: Annotated[str, typer.Argument(help="What to look for; it is sent to the Hub.")],
    as_json: Json = False,
) -> None:
    """Find models on the Hugging Face Hub that have GGUF files, the most fetched first."""
    import msgspec

    from edge.models.hub import search as find

    found = find(words)
    if as_json:
        echo_json(msgspec.json.encode(found).decode())
        return
    for each in found:
        echo(f"{each.id:60} {each.downloads:>12,} downloads{'  gated' if each.gated else ''}")
    echo("`nearfar models pull OWNER/REPO` fetches one" if found else "nothing was found")


@models_app.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="A name of the list, OWNER/REPO[:Q4_K_M], or an address.")
    ],
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Fetch even what does not fit the memory.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch a model from the Hugging Face Hub; a broken download goes on where it stopped."""
    import msgspec

    from edge.models.pull import pull as fetch
    from offload.config.places import places

    done = fetch(name, places().models, anyway=anyway)
    if as_json:
        echo_json(msgspec.json.encode(done).decode())
        return
    echo(f"{done.path} ({done.size_bytes / 1e9:.2f} GB)")
    echo(f"try it: nearfar chat -m {done.name}")


@models_app.command()
def show(
    name: Name,
    template: Annotated[
        bool, typer.Option("--template", help="Print the chat template whole.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a model is: its architecture, parameters by type and chat template."""
    import json

    from edge.models.local_models import find_any, makes_embeddings, size_of
    from edge.models.model_contents import read_contents, read_folder
    from edge.models.packaged_models import packaged_at
    from offload.config.places import places

    path = find_any(name, places().models)
    contents = read_folder(path) if path.is_dir() else read_contents(path)
    size_bytes, packaged = size_of(path), packaged_at(path)
    if as_json:
        document = {
            "path": str(path),
            "size_bytes": size_bytes,
            "from": packaged.requirement if packaged else "",
            "architecture": contents.architecture,
            "embeddings": makes_embeddings(path),
            "tensors": dict(contents.tensors),
            "parameters": dict(contents.parameters),
            "settings": contents.settings,
        }
        echo_json(json.dumps(document, ensure_ascii=False))
        return
    echo(f"path          {path} ({size_bytes / 1e6:,.1f} MB)")
    if packaged is not None:
        echo(f"from          the package {packaged.requirement}, as its SHA-256 says")
    echo(f"architecture  {contents.architecture}")
    echo(f"embeddings    {'yes' if makes_embeddings(path) else 'no'}")
    echo(f"parameters    {sum(contents.parameters.values()) / 1e6:,.1f}M")
    for kind, count in contents.parameters.most_common():
        echo(f"  {kind:10}  {count / 1e6:,.1f}M parameters in {contents.tensors[kind]} tensors")
    for key, value in contents.settings.items():
        if not key.startswith("tokenizer.") and not isinstance(value, list):
            echo(f"  {key} = {value}")
    shown = contents.chat_template
    line = f"{len(shown)} characters, --template prints it" if shown else "none"
    echo(shown if template else f"chat template {line}")


@models_app.command()
def alias(
    name: Annotated[str, typer.Argument(help="The short name.")],
    target: Annotated[
        str | None, typer.Argument(help="The model it means; without one the name is dropped.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a model a short name of your own."""
    import json

    from edge.models.local_models import find_gguf, read_aliases, set_alias
    from offload.config.places import places
    from offload.errors import RequestError

    folder = places().models
    if target is not None:
        find_gguf(target, folder)  # what is not there is said now
    elif name not in read_aliases(folder):
        raise RequestError(f"there is no alias {name!r}; give the model that it shall mean, too")
    set_alias(name, target, folder)
    line = f"{name} = {target}" if target is not None else f"{name} is no alias any more"
    echo(json.dumps({"alias": name, "model": target}) if as_json else line)


@models_app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a model of the models folder; other programs' models are never touched."""
    import json

    from edge.models.local_models import size_of
    from edge.models.model_files import delete, removable
    from offload.config.places import places

    folder = places().models
    files = removable(name, folder)  # what cannot be deleted is said before anything is asked
    if not yes and not as_json:
        size = size_of(files[0]) / 1e6
        named = ", ".join(map(str, files))
        typer.confirm(printable(f"Delete {named} ({size:,.1f} MB)?"), abort=True)
    delete(files, folder)
    gone = [str(path) for path in files]
    echo(json.dumps({"removed": gone}) if as_json else "\n".join(f"removed {p}" for p in gone))
