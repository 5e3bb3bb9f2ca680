"""HTTP server: listens around the app; the caller owns the engine, the loop and the signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from backbone.errors import cause
from backbone.http_connections import KEEP_ALIVE_S, protocol_for
from offload.engine import Engine
from offload.errors import SettingsError
from serve.answer_streams import STOPPING
from serve.app import build_app
from serve.auth import MAX_HEADER_BYTES
from serve.options import ServeOptions

_BACKLOG = 1024
_GOODBYE_S = 5  # how long answers under way may still take when the server is stopped
_LAST_WORD_S = 3  # and how long they then have to say that they end here


class HttpServer:
    """Serves an ASGI app from `start` to `aclose`."""

    def __init__(self, app: ASGIApp, *, options: ServeOptions) -> None:
        self._options = options
        self._stopping = asyncio.Event()
        self._server = _Uvicorn(_config(_told(app, self._stopping), options))

    @property
    def url(self) -> str:
        """The address of the server, its port filled in. Needs `start`."""
        scheme = "https" if self._options.tls_cert else "http"
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        return f"{scheme}://{host}:{self._listener.getsockname()[1]}"

    async def start(self) -> None:
        """Bind and begin to serve. Raises SettingsError where the address cannot be bound."""
        self._listener = _bind(self._options)
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        begun = asyncio.create_task(self._server.begun.wait())
        await asyncio.wait((begun, self._serving), return_when=asyncio.FIRST_COMPLETED)
        if not begun.done():
            begun.cancel()
            await self._serving

    async def aclose(self, *, goodbye_s: float = _GOODBYE_S) -> None:
        """Take no more requests, let answers end for a while, end others with an error, stop."""
        self._server.should_exit = True
        await asyncio.wait((self._serving,), timeout=goodbye_s)
        self._stopping.set()
        await self._serving


async def run(engine: Engine, *, options: ServeOptions | None = None) -> None:
    """Serve an engine until cancelled. Raises SettingsError."""
    options = options or ServeOptions()
    server = HttpServer(build_app(engine, options=options), options=options)
    await server.start()
    try:
        await asyncio.Event().wait()
    finally:
        await server.aclose()


def _told(app: ASGIApp, stopping: asyncio.Event) -> ASGIApp:
    """Return the app with the event that ends its answers in every scope."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, STOPPING: stopping}, receive, send)

    return wrapped


class _Uvicorn(uvicorn.Server):
    """Uvicorn that says when it has begun, and leaves the signals to whoever runs the loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.begun = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: ASGIApp, options: ServeOptions) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=protocol_for(options.body_timeout_s),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",  # no line for each head that is none: one may send millions
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=_GOODBYE_S + _LAST_WORD_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    try:
        config.load()
    except ssl.SSLError:  # whose words are OpenSSL's own
        raise SettingsError(
            "serve.tls_cert and serve.tls_key are not a certificate and its key; "
            "name two PEM files that belong together"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"serve.tls_cert and serve.tls_key cannot be read ({cause(error)}); "
            "mend their permissions"
        ) from None
    return config


def _bind(options: ServeOptions) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        listener = socket.create_server(
            (options.host, options.port), family=family, backlog=_BACKLOG, reuse_port=False
        )
        # asyncio does so only for sockets that name their protocol; without it the second small
        # write of a reply waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise SettingsError(
            f"cannot listen at {options.host}:{options.port} ({cause(error)}); "
            "choose another serve.host or serve.port"
        ) from None
