"""What `nearfar serve` and `nearfar cloud serve` share: an engine over HTTP until a signal."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import aclosing
from pathlib import Path

from backbone.errors import MissingExtra
from offload.engine import Engine
from offload.settings import Settings
from serve.options import ServeOptions


def options_from(settings: Settings, host: str | None, port: int | None) -> ServeOptions:
    """Return the settings' options with a command's flags over them. Raises SettingsError."""
    chosen = settings.serve
    keys = tuple(key.strip() for key in chosen.api_keys.split(",") if key.strip())
    return ServeOptions(
        host=host if host is not None else chosen.host,
        port=port if port is not None else chosen.port,
        api_keys=keys,
        privacy=settings.policy.privacy,
        tls_cert=Path(chosen.tls_cert) if chosen.tls_cert else None,
        tls_key=Path(chosen.tls_key) if chosen.tls_key else None,
    )


async def serve_engine(
    engine: Engine, options: ServeOptions | None = None, *, as_json: bool = False
) -> None:
    """Serve the engine until SIGINT or SIGTERM, say where, and close it.

    Raises SettingsError, and MissingExtra without the packages of the extra `serve`.
    """
    options = options or ServeOptions()
    try:
        from serve.app import build_app
        from serve.server import HttpServer
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "starlette", "serve") from None
    stop = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    async with aclosing(engine):
        server = HttpServer(build_app(engine, options=options), options=options)
        await server.start()
        async with aclosing(server):
            announce(engine, server.url, options, as_json=as_json)
            await stop.wait()


def announce(engine: Engine, url: str, options: ServeOptions, *, as_json: bool) -> None:
    """Print where the server listens, for a person or as one JSON line."""
    from serve.naming import model_names

    names = model_names(engine)
    if as_json:
        print(json.dumps({"url": f"{url}/v1", "models": names}), flush=True)
        return
    print(f"listening on {url}/v1, models {', '.join(names)}")
    key = "one of your API keys" if options.api_keys else "any word"
    print(f"for OpenAI clients: OPENAI_BASE_URL={url}/v1, and {key} as OPENAI_API_KEY")
    if not options.is_loopback and options.tls_cert is None:
        print("others can read what crosses the network; set serve.tls_cert and serve.tls_key")
    print("stop with Ctrl-C", flush=True)
