"""Commands that serve over HTTP: they put the near models and the HTTP face together."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from backbone.errors import WrongUsage
from edge.cli import ASKING

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.routing import Route

    from edge.assistant.engine_settings import AssistantEngine
    from edge.chat.ask_options import AskOptions
    from offload.config.settings import Settings
    from serve.app import AppParts
    from serve.options import ServeOptions

_THIS_MACHINE = ("127.0.0.1", "localhost")

app = typer.Typer()


@app.command(rich_help_panel=ASKING)
def serve(
    host: Annotated[str | None, typer.Option(help="Where to listen; 127.0.0.1 unless set.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port; 8080 unless set.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A GGUF file, or the name of a model on this device."),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option("--draft", help="The draft model: a smaller GGUF of the same vocabulary."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            help="A LoRA adapter of the model, FILE.gguf or FILE.gguf:SCALE; may be repeated.",
        ),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no cloud at all.")] = False,
    page: Annotated[
        bool, typer.Option("--assistant", help="Serve the assistant's page on the same port.")
    ] = False,
    link: Annotated[
        str,
        typer.Option(
            "--link", help="Let devices ask it as their far side, at tcp://HOST:PORT (CURVE)."
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Say where, as one JSON line.")] = False,
) -> None:
    """Answer OpenAI clients over HTTP: near, and far when that pays."""
    from backbone.event_loop import run_server
    from edge.chat.ask_options import AskOptions
    from serve.cli import options_from

    if page and host not in (None, *_THIS_MACHINE):
        raise WrongUsage(
            "--host lets others in, and the page is for this machine alone; leave --assistant out"
        )
    if page and link:
        raise WrongUsage("--link lets others in, and the page is for this machine alone")
    wish = AskOptions(preset="", model=model, draft=draft, lora=lora, offline=offline)
    settings = wish.settings()
    options = options_from(settings, host, port)
    options = replace(options, temperature=settings.edge.temperature)
    _say_rule(wish, settings)
    if page:
        _serve_page(wish, settings, options, as_json=as_json)
    else:
        run_server(_serve(wish, settings, options, link=link, as_json=as_json))


def _say_rule(wish: AskOptions, settings: Settings) -> None:
    """Say what holds for the texts of clients: nobody can be asked about them."""
    from edge.chat.consent import say_rule
    from offload.config.places import places
    from offload.egress.permission import LivePermission

    say_rule(settings, LivePermission(places().config_file)(), offline=wish.offline)


async def _serve(
    wish: AskOptions, settings: Settings, options: ServeOptions, *, link: str, as_json: bool
) -> None:
    from edge.near.near_service import NearService
    from offload.config.places import places
    from serve.cli import serve_engine

    flags = replace(wish.choice(), consent=None, serving=True)
    async with aclosing(NearService(settings, places(), keeps_first=True)) as near:
        engine = near.open_engine(settings, places(), flags)
        # Whom others' keys let in may not fill the memory with models that nobody chose for them.
        models = near.by_name(engine, flags, only_first=not options.is_loopback)
        try:
            async with engine.in_use():  # what cannot be loaded is said before anybody asks
                pass
        except BaseException:
            await engine.aclose()
            raise
        await serve_engine(engine, options, models=models, link=link, as_json=as_json)


def _serve_page(
    wish: AskOptions, settings: Settings, options: ServeOptions, *, as_json: bool
) -> None:
    """Serve the assistant, and the HTTP face over the same models beside it."""
    from edge.assistant.server import Backing, run
    from edge.near.near_service import NearService
    from offload.config.places import places
    from offload.errors import SettingsError
    from serve.cli import app_of

    if options.host not in _THIS_MACHINE or options.tls_cert is not None:
        raise SettingsError(
            "the assistant's page is for this machine alone: leave --assistant out, or serve.host "
            "at 127.0.0.1 and serve.tls_cert empty"
        )
    near = NearService(settings, places(), keeps_first=True)
    flags = replace(wish.choice(), consent=None, serving=True)

    def beside(assistant: AssistantEngine) -> Starlette:
        models = near.by_name(assistant.current, flags, chosen=lambda: assistant.settings.edge)
        return app_of(assistant.current, options, models)

    backing = Backing(open_engine=near.open_engine, beside=beside, aclose=near.aclose)
    run(wish, port=options.port, open_page=False, as_json=as_json, backing=backing)


OLLAMA_PORT = 11434  # where clients of ollama look


@app.command(rich_help_panel=ASKING)
def up(
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="The port; 11434 unless taken, 0 takes a free one."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The model that answers who names none."),
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Use no cloud at all.")] = False,
    install: Annotated[
        bool, typer.Option("--install", help="Write a service that starts it at log-in, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Say where, as one JSON line.")] = False,
) -> None:
    """Run the one service of this machine: page, OpenAI and Ollama clients, `ask` and `chat`.

    Models are loaded when they are asked, and leave memory when they have been idle.
    """
    from edge.chat.ask_options import AskOptions
    from edge.near.user_service import install_service
    from offload.config.places import places
    from offload.config.running_service import find
    from offload.errors import SettingsError
    from serve.cli import options_from

    if install:
        install_service(as_json=as_json)
        return
    running = find(places())
    if running is not None:
        raise SettingsError(f"`nearfar up` runs already, at {running.url}; stop that one first")
    wish = AskOptions(preset="", model=model, offline=offline)
    settings = wish.settings()
    options = replace(options_from(settings, None, _free(port)), host="127.0.0.1", warm_up=False)
    _say_rule(wish, settings)
    _serve_all(wish, settings, options, as_json=as_json)


def _free(port: int | None) -> int:
    """Return the port that was asked for, else ollama's own if nobody has it, else 0."""
    import socket

    if port is not None:
        return port
    try:
        with socket.create_server(("127.0.0.1", OLLAMA_PORT)):
            return OLLAMA_PORT
    except OSError:
        return 0


def _serve_all(
    wish: AskOptions, settings: Settings, options: ServeOptions, *, as_json: bool
) -> None:
    from edge.assistant.server import Backing, run
    from edge.near.local_store import LocalStore
    from edge.near.near_service import NearService
    from offload.config import running_service
    from offload.config.places import places
    from serve.cli import announce_service, app_of
    from serve.near_endpoint import NearEndpoint
    from serve.ollama.routes import PATHS, ollama_routes

    here, token = places(), running_service.new_token()
    near = NearService(settings, here)
    flags = replace(wish.choice(), consent=None, serving=True)
    if options.api_keys:  # set for others; our own commands have one, too
        options = replace(options, api_keys=(*options.api_keys, f"nearfar:{token}"))

    def beside(assistant: AssistantEngine) -> Starlette:
        models = near.by_name(assistant.current, flags, chosen=lambda: assistant.settings.edge)
        may_change = settings.serve.clients_change_models

        def further(parts: AppParts) -> list[Route]:
            ollama = ollama_routes(parts, LocalStore(near, here), may_change=may_change)
            return [*NearEndpoint(near, token).routes(parts), *ollama]

        return app_of(assistant.current, options, models, further)

    def announce(page: str) -> None:
        url = page.partition("/#")[0]
        running_service.note(here, url, token)
        announce_service(url, page, options, as_json=as_json)

    async def close() -> None:
        running_service.forget(running_service.file_of(here))
        await near.aclose()

    backing = Backing(
        open_engine=near.open_engine,
        beside=beside,
        aclose=close,
        announce=announce,
        beside_paths=PATHS,
    )
    run(wish, port=options.port, open_page=False, as_json=as_json, backing=backing)
