"""Commands `nearfar presets`: list, show, set, remove, and import from ollama's Modelfile."""

from __future__ import annotations

from typing import Annotated

import typer

from backbone.terminal_text import echo, echo_json, printable

presets_app = typer.Typer(
    help="Presets: a persona, sampling, a model and privacy under one name.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Name = Annotated[str, typer.Argument(help="A preset's name.")]


@presets_app.command("list")
def list_presets(as_json: Json = False) -> None:
    """List the presets; `nearfar config set edge.preset NAME` makes one the default."""
    import msgspec

    from edge.chat.presets import read_presets
    from offload.config.places import places

    known = read_presets(places().presets)
    if as_json:
        echo_json(msgspec.json.encode(known).decode())
        return
    for name, preset in known.items():
        persona = " ".join(preset.system.split())
        about = f"{preset.model or 'any model'}  {persona[:60]}"
        echo(printable(f"{name:24} {about}".rstrip()))
    if not known:
        echo("there is none; `nearfar presets set NAME --system TEXT` makes one")


@presets_app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show a preset."""
    import msgspec

    from edge.chat.presets import preset_of
    from offload.config.places import places

    built = msgspec.to_builtins(preset_of(name, places().presets))
    if as_json:
        echo_json(msgspec.json.encode(built).decode())
        return
    for field, value in built.items():
        echo(printable(f"{field:19} {value}"))


@presets_app.command("set")
def set_preset(
    name: Name,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The persona.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The near model.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-t", help="0 takes the likeliest token.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(help="The share of likelihood drawn from.")] = None,
    top_k: Annotated[int | None, typer.Option(help="How many tokens are drawn from.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="The least likelihood, as a share of the likeliest's.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1 makes tokens less likely that stand there.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of what is drawn.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends an answer; may be repeated.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="The token limit of an answer.")
    ] = None,
    privacy: Annotated[
        str | None, typer.Option(help="local_only or ask: keeps more here than the settings do.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a preset, or change what is given of one; an empty text takes a part away."""
    import msgspec

    from backbone.errors import as_typed
    from edge.chat.presets import changed_preset, keep_preset, read_presets
    from offload.config.places import places

    given = {
        "system": system,
        "model": model,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": None if stop is None else tuple(text for text in stop if text),
        "max_tokens": max_tokens,
        "privacy": privacy,
    }
    path = places().presets
    with as_typed():
        preset = changed_preset(read_presets(path).get(name), given)
    keep_preset(name, preset, path)
    _told(name, msgspec.to_builtins(preset), as_json)


@presets_app.command()
def remove(name: Name, as_json: Json = False) -> None:
    """Remove a preset."""
    from edge.chat.presets import keep_preset, preset_of
    from offload.config.places import places

    preset_of(name, places().presets)
    keep_preset(name, None, places().presets)
    _told(name, {}, as_json)


@presets_app.command("import")
def import_modelfile(
    file: Annotated[str, typer.Argument(help="An ollama Modelfile.")],
    name: Annotated[str, typer.Option(help="The preset's name; else the file's folder's.")] = "",
    as_json: Json = False,
) -> None:
    """Make a preset of an ollama Modelfile: FROM, SYSTEM and PARAMETER."""
    import msgspec

    from backbone.files import expanded
    from edge.chat.modelfile import read_modelfile
    from edge.chat.presets import keep_preset
    from offload.config.places import places

    path = expanded(file).absolute()
    read = read_modelfile(path)
    name = name or path.parent.name
    keep_preset(name, read.preset, places().presets)
    if read.left_out:
        echo(f"nearfar: left out: {', '.join(read.left_out)}", err=True)
    _told(name, msgspec.to_builtins(read.preset), as_json)


def _told(name: str, built: dict[str, object], as_json: bool) -> None:
    import json

    if as_json:
        echo_json(json.dumps({"name": name, "preset": built}, ensure_ascii=False))
    else:
        echo(
            printable(f"{name} is kept; try: nearfar chat --preset {name}" if built else "removed")
        )
