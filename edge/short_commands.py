"""Short commands `nearfar run`, `pull`, `list`, `rm`, `ps`, `stop`: words of ollama's users."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from backbone.terminal_text import echo, echo_json, printable, readable
from edge.cli import ASKING, DEVICE
from edge.models import cli as models
from edge.near.flags import Json, LocalOnly, Offline, System

app = typer.Typer()

# The same functions as those of `nearfar models`: one help text, one behaviour.
app.command("pull", rich_help_panel=DEVICE)(models.pull)
app.command("list", rich_help_panel=DEVICE)(models.list_models)
app.command("rm", rich_help_panel=DEVICE)(models.remove)


@app.command(rich_help_panel=ASKING)
def run(
    model: Annotated[
        str, typer.Argument(help="A model on this device, or one that can be fetched.")
    ],
    prompt: Annotated[
        list[str] | None, typer.Argument(help="The question; without one a chat begins.")
    ] = None,
    system: System = None,
    offline: Offline = False,
    local_only: LocalOnly = False,
    as_json: Json = False,
) -> None:
    """Run a model: fetch it if it is not here, then answer one question, or chat."""
    from edge.chat.ask import ask_once
    from edge.chat.ask_options import AskOptions
    from edge.chat.chat_setup import ConversationChoice, chat_on
    from edge.chat.question_text import question
    from edge.models.pull import fetch_missing
    from offload.config.places import places

    at_terminal = sys.stdin.isatty()
    text = question(" ".join(prompt) if prompt else None) if prompt or not at_terminal else ""
    fetch_missing(model, places().models, agreed=lambda name: not offline and _agreed(name))
    wish = AskOptions(
        model=model,
        system=readable(system) if system else None,
        offline=offline,
        local_only=local_only,
    )
    if text:
        raise typer.Exit(ask_once(text, wish, why=False, as_json=as_json))
    raise typer.Exit(chat_on(wish, ConversationChoice(), "", as_json=as_json))


@app.command(rich_help_panel=DEVICE)
def ps(as_json: Json = False) -> None:
    """List the models that `nearfar up` holds in memory."""
    from edge.near.service_calls import models_in_memory

    rows = models_in_memory()
    if as_json:
        echo_json(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        size = f"{row['size'] / 1e6:,.1f} MB"
        echo(f"{printable(row['name']):40} {size:>12}  until {row['expires_at']}")
    if not rows:
        echo("no model is in memory; one is loaded when it is asked", err=True)


@app.command(rich_help_panel=DEVICE)
def stop(
    model: Annotated[str, typer.Argument(help="The name of a model, as `nearfar ps` shows it.")],
    as_json: Json = False,
) -> None:
    """Take a model out of the memory of `nearfar up`; the service goes on."""
    from edge.near.service_calls import unload

    unload(model)
    line = f"{printable(model)} is out of memory"
    echo(json.dumps({"stopped": model}) if as_json else line)


def _agreed(name: str) -> bool:
    """Whether a model that is not here may be fetched: a person is asked, a script has said so."""
    if not sys.stdin.isatty():
        return True
    return typer.confirm(printable(f"{name} is not here; fetch it?"), default=True, err=True)
