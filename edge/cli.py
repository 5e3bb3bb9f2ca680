"""Commands of the device: `nearfar ask`, `chat`, `assistant` and `doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from backbone.declared_options import from_options
from backbone.terminal_text import readable
from edge.chat.ask_options import AskOptions
from edge.near.flags import Json, Model, Offline

# Nothing heavier than this at the top: `nearfar --help` must answer at once.

ASKING, DEVICE = "Ask", "This device"  # the groups in which `nearfar --help` shows commands

app = typer.Typer()


@app.command(rich_help_panel=ASKING)
@from_options(AskOptions)
def ask(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="The question; without one, or with -, it is read from stdin. Text that is piped "
            "in beside one is put before it."
        ),
    ] = None,
    *,
    options: AskOptions,
    divide: Annotated[
        bool,
        typer.Option(
            "--divide",
            help="Have long documents (--file) read near in pieces; the far model, if it may be "
            "asked, plans that and answers from what was found.",
        ),
    ] = False,
    why: Annotated[bool, typer.Option("--why", help="Say who answered, and why.")] = False,
    as_json: Json = False,
) -> None:
    """Ask one question: answered near, and far when that pays."""
    from edge.chat.question_text import question

    if divide:
        from edge.chat.divided_answer import ask_divided

        raise typer.Exit(ask_divided(question(prompt), options, explain=why, as_json=as_json))
    from edge.chat.ask import ask_once

    raise typer.Exit(ask_once(question(prompt), options, why=why, as_json=as_json))


@app.command(rich_help_panel=ASKING)
@from_options(AskOptions)
def chat(
    first: Annotated[
        str | None, typer.Argument(help="The first question; without one you are asked for it.")
    ] = None,
    *,
    options: AskOptions,
    latest: Annotated[
        bool, typer.Option("--continue", "-c", help="Go on with the last conversation.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", "-r", help="Go on with the conversation of this id.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep the conversation on this device.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer as a JSON line.")
    ] = False,
) -> None:
    """Have a conversation at the terminal; it is kept, and can be resumed."""
    from edge.chat.chat_setup import ConversationChoice, chat_on

    past = ConversationChoice(latest=latest, resume=resume, keep=keep)
    raise typer.Exit(chat_on(options, past, readable(first or ""), as_json=as_json))


@app.command(rich_help_panel=ASKING)
def assistant(
    model: Model = None,
    offline: Offline = False,
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="The port; 0 takes a free one.")
    ] = 8089,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser.")
    ] = True,
    window: Annotated[
        bool, typer.Option("--window", help="A window of its own; closing it ends the assistant.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say where, as one JSON line.")] = False,
) -> None:
    """Open the assistant: a page on this machine that keeps conversations."""
    from edge.assistant.server import run

    run(
        AskOptions(model=model, offline=offline),
        port=port,
        open_page=open_page,
        as_json=as_json,
        in_window=window,
    )


@app.command(rich_help_panel=DEVICE)
def doctor(
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure for up to a minute, and keep the best settings.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show this device, its models and its link, and what is wrong with them.

    The exit status is 1 where nothing can be answered here.
    """
    from edge.doctor.doctor import examine
    from edge.doctor.findings import show, tuned

    if tune:
        tuned(as_json=as_json)
    else:
        raise typer.Exit(show(examine(), as_json=as_json))
