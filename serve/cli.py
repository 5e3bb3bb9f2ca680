"""Serving over HTTP for `nearfar serve` and `nearfar cloud serve`, until a signal."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from backbone.collector import leave_out_what_is_loaded
from backbone.errors import MissingExtra
from backbone.stop_signals import on_signals
from backbone.terminal_text import echo, echo_json
from offload.config.places import places
from offload.config.settings import ServeSettings, Settings
from offload.engine import ByModel, Engine
from offload.errors import SettingsError
from offload.link.local_keys import used_file
from offload.link.quota import Quota
from serve.options import ServeOptions

END_WITHIN_S = 20.0  # after a signal: answers have 5 s of it, the engine the rest

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.routing import Route

    from serve.app import AppParts


def address_of(text: str) -> tuple[str, int]:
    """Return the host and port of HOST:PORT. Raises SettingsError."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port[:6]) > 65_535:
        raise SettingsError(f"{text!r} is no address; write HOST:PORT, as in 127.0.0.1:8000")
    return host, int(port)


def options_from(settings: Settings, host: str | None, port: int | None) -> ServeOptions:
    """Return the settings' options with a command's flags over them. Raises SettingsError."""
    chosen = settings.serve
    keys = tuple(key.strip() for key in chosen.api_keys.split(",") if key.strip())
    if chosen.api_keys.strip() and not keys:  # who wrote it meant to let in none without a key
        raise SettingsError("serve.api_keys names no key; write KEY or name:KEY, or leave it empty")
    return ServeOptions(
        host=host if host is not None else chosen.host,
        port=port if port is not None else chosen.port,
        api_keys=keys,
        origins=tuple(each.strip() for each in chosen.origins.split(",") if each.strip()),
        max_running=chosen.max_running,
        max_queued=chosen.max_queued,
        quota=_quota(chosen),
        used_file=used_file(places().keys),
        log=chosen.log,
        tls_cert=Path(chosen.tls_cert) if chosen.tls_cert else None,
        tls_key=Path(chosen.tls_key) if chosen.tls_key else None,
    )


def _quota(chosen: ServeSettings) -> Quota:
    return Quota(
        requests_per_s=chosen.requests_per_s or None,
        tokens_per_s=chosen.tokens_per_s or None,
        requests_per_day=chosen.requests_per_day or None,
        tokens_per_day=chosen.tokens_per_day or None,
    )


def app_of(
    engine: Engine,
    options: ServeOptions,
    models: ByModel | None = None,
    further: Callable[[AppParts], Sequence[Route]] = lambda _: (),
) -> Starlette:
    """Return the HTTP face as an app, for a server of the caller's; see serve.app.build_app.

    Raises MissingExtra without the packages of the extra `serve`.
    """
    try:
        from serve.app import build_app
        from serve.request_log import write_logs
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "starlette", "serve") from None
    write_logs(options.log)
    return build_app(engine, options=options, models=models, further=further)


@asynccontextmanager
async def face_of(
    engine: Engine,
    options: ServeOptions,
    models: ByModel | None = None,
    further: Callable[[AppParts], Sequence[Route]] = lambda _: (),
) -> AsyncIterator[str]:
    """Serve an engine over HTTP while the block lasts, and yield the server's URL.

    Raises SettingsError, and MissingExtra without the packages of the extra `serve`.
    """
    app = app_of(engine, options, models, further)
    from serve.server import HttpServer

    server = HttpServer(app, options=options)
    await server.start()
    async with aclosing(server):
        yield server.url


async def serve_engine(
    engine: Engine,
    options: ServeOptions | None = None,
    *,
    models: ByModel | None = None,
    link: str = "",
    as_json: bool = False,
) -> None:
    """Serve the engine until SIGINT or SIGTERM, say where, and close it.

    `link` is an address at which devices may ask it over the link, too.

    Raises SettingsError, and MissingExtra without the packages of the extra `serve`.
    """
    options = options or ServeOptions()
    stop = asyncio.Event()
    with on_signals(stop.set, signal.SIGINT, signal.SIGTERM, within_s=END_WITHIN_S):
        async with (
            aclosing(engine),
            _linked(engine, link) as place,
            face_of(engine, options, models) as url,
        ):
            leave_out_what_is_loaded()
            announce(engine, url, options, models=models, place=place, as_json=as_json)
            await stop.wait()


class LinkPlace(NamedTuple):
    """Where devices reach a server over the link."""

    endpoint: str
    server_key: str


@asynccontextmanager
async def _linked(engine: Engine, endpoint: str) -> AsyncIterator[LinkPlace | None]:
    """Serve an engine over the link while the block lasts, where there is an address for it."""
    if not endpoint:
        yield None
        return
    from offload.hybrid.settled import SettledEngine
    from offload.link.local_server import serving

    async with serving(SettledEngine(engine), endpoint) as server:
        yield LinkPlace(server.endpoint, server.public_key)


def announce(
    engine: Engine,
    url: str,
    options: ServeOptions,
    *,
    models: ByModel | None = None,
    place: LinkPlace | None = None,
    as_json: bool,
) -> None:
    """Print where the server listens, for a person or as one JSON line."""
    from serve.model_names import model_names

    names = model_names(engine, models)
    if as_json:
        said = {"url": f"{url}/v1", "models": names}
        echo_json(json.dumps(said | (place._asdict() if place is not None else {})))
        return
    echo(f"listening on {url}/v1, models {', '.join(names)}")
    if place is not None:
        echo(f"for devices: {place.endpoint}, server key {place.server_key}")
    key = "one of your API keys" if options.api_keys else "any word"
    echo(f"for OpenAI clients: OPENAI_BASE_URL={url}/v1, and {key} as OPENAI_API_KEY")
    if not options.is_loopback and options.tls_cert is None:
        echo("others can read what crosses the network; set serve.tls_cert and serve.tls_key")
    echo("stop with Ctrl-C")


def announce_service(url: str, page: str, options: ServeOptions, *, as_json: bool) -> None:
    """Print where a service answers whom, for a person or as one JSON line."""
    if as_json:
        echo_json(json.dumps({"url": f"{url}/v1", "ollama": url, "page": page}))
        return
    key = "one of your API keys" if options.api_keys else "any word"
    echo(f"the page: {page} (anyone who has this link can read what you wrote)")
    echo(f"OpenAI clients: OPENAI_BASE_URL={url}/v1, and {key} as OPENAI_API_KEY")
    echo(f"Ollama clients: OLLAMA_HOST={url}")
    echo("`nearfar ask` and `chat` use the model that is loaded here; stop with Ctrl-C")
