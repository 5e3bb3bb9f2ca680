"""Command `nearfar assistant`: the page's server on loopback, in a browser or a window."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import MissingExtra, NearfarError, cause
from backbone.stop_signals import on_signals
from backbone.terminal_text import echo, echo_json
from edge.assistant.engine_settings import AssistantEngine, Open
from edge.assistant.running_answers import RunningAnswers
from edge.chat.ask_options import AskOptions
from edge.conversations.store import Conversations
from edge.near.factory import open_hybrid
from offload.config.places import Places, places
from offload.errors import SettingsError

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

DEFAULT_PORT = 8089
END_WITHIN_S = 20.0  # after a signal
_HEAD_TIMEOUT_S = 30.0

Begun = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Backing:
    """What a service puts behind the page: how it opens engines, and an app on the same port.

    `beside` makes the app for the paths that are not the page's; `aclose` is called at the end.
    """

    open_engine: Open
    beside: Callable[[AssistantEngine], Starlette]
    aclose: Callable[[], Awaitable[None]]
    beside_paths: frozenset[str] = frozenset()  # those of `beside` below /api/, as the page's are
    announce: Callable[[str], None] | None = None  # tells where the page is, in place of our own


def run(
    wish: AskOptions,
    *,
    port: int,
    open_page: bool,
    as_json: bool,
    in_window: bool = False,
    backing: Backing | None = None,
) -> None:
    """Serve the page until Ctrl-C, or until its window is closed.

    Raises SettingsError for a taken port, MissingExtra, NoWindow.
    """
    try:
        import starlette
        import uvicorn
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "starlette", "assistant") from None
    del starlette, uvicorn
    server = PageServer(wish, places(), port=port, backing=backing)
    if in_window:
        _in_window(server)
        return

    async def begun(url: str) -> None:
        if backing is not None and backing.announce is not None:
            backing.announce(url)
        else:
            announce(url, has_api=backing is not None, as_json=as_json)
        if open_page:
            await asyncio.to_thread(webbrowser.open, url)

    asyncio.run(server.serve(begun))


def _in_window(server: PageServer) -> None:

    def serve(tell: Callable[[str], None]) -> None:
        async def begun(url: str) -> None:
            tell(url)

        asyncio.run(server.serve(begun))

    show(load(), serve, server.stop, places().data / "window")


class PageServer:
    """Page server: the page, its conversations and its engine, behind one port of this machine."""

    def __init__(
        self, wish: AskOptions, here: Places, *, port: int, backing: Backing | None
    ) -> None:
        self._wish, self._here, self._port, self._backing = wish, here, port, backing
        self._server: uvicorn.Server | None = None
        self._stopped = False

    def stop(self) -> None:
        """End the server; any thread may say so."""
        self._stopped = True
        if self._server is not None:
            self._server.should_exit = True

    async def serve(self, begun: Begun) -> None:
        """Serve until stopped, or until a signal; `begun` is told the link of the page."""
        # uvicorn hears signals only once it is up: one that comes before must end it as well.
        with on_signals(self.stop, signal.SIGINT, signal.SIGTERM, within_s=END_WITHIN_S):
            await self._serve(begun)

    async def _serve(self, begun: Begun) -> None:
        import uvicorn

        from backbone.http_connections import KEEP_ALIVE_S, protocol_for
        from edge.assistant.access import kept_token
        from edge.assistant.app import build_app

        token = kept_token(self._here.keys / "assistant.token")
        store = Conversations(self._here.conversations)
        listener = _bind(self._port)
        answers = RunningAnswers(store)
        assistant = AssistantEngine(
            self._wish.settings(),
            self._here,
            ask=answers.consent,
            refused=answers.refused,
            offline=self._wish.offline,
            serving=self._backing is not None,
            open_engine=self._backing.open_engine if self._backing else open_hybrid,
        )
        beside = self._backing.beside(assistant) if self._backing else None
        app = build_app(
            assistant,
            store,
            answers,
            token=token,
            beside=beside,
            beside_paths=self._backing.beside_paths if self._backing else frozenset(),
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=protocol_for(_HEAD_TIMEOUT_S),
                ws="none",
                log_config=None,
                log_level="error",  # no line for each head that is none: one may send millions
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=KEEP_ALIVE_S,
            )
        )
        self._server.should_exit = self._stopped
        await begun(f"http://127.0.0.1:{listener.getsockname()[1]}/#token={token}")
        await self._server.serve(sockets=[listener])
        store.close()
        if self._backing is not None:
            await self._backing.aclose()


def announce(url: str, *, has_api: bool = False, as_json: bool) -> None:
    """Say where the page is, for a person or as one JSON line."""
    api = f"{url.partition('/#')[0]}/v1" if has_api else None
    if as_json:
        echo_json(json.dumps({"url": url, **({"api": api} if api else {})}))
        return
    echo(f"the assistant is at {url}\nanyone who has this link can read what you wrote")
    if api:
        echo(f"for OpenAI clients: OPENAI_BASE_URL={api}")
    echo("stop with Ctrl-C")


def _bind(port: int) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        raise SettingsError(
            f"cannot listen at 127.0.0.1:{port} ({cause(error)}); "
            "choose another --port, or 0 for any"
        ) from None


# Serves until `stop` is called from any thread, and calls back with the page's URL.
Serve = Callable[[Callable[[str], None]], None]


class NoWindow(NearfarError):
    """No window: this machine cannot show one."""


def load() -> Any:
    """Return pywebview. Raises MissingExtra."""
    try:
        import webview
    except ModuleNotFoundError:
        raise MissingExtra("pywebview", "window") from None
    return webview


def show(webview: Any, serve: Serve, stop: Callable[[], None], storage: Path) -> None:
    """Serve in a thread, and show the page until its window is closed.

    A window belongs to the main thread on every system. Raises NoWindow, and what serving raised.
    """
    url: Future[str] = Future()

    def run() -> None:
        try:
            serve(url.set_result)
        except BaseException as error:
            if url.done():
                raise
            url.set_exception(error)

    server = threading.Thread(target=run, name="assistant")
    server.start()
    try:
        _open(webview, url.result(), storage)
    finally:
        stop()
        server.join()


def _open(webview: Any, url: str, storage: Path) -> None:
    webview.settings["ALLOW_DOWNLOADS"] = True  # of an exported conversation
    webview.create_window("nearfar", url, width=1180, height=820, min_size=(380, 480))
    try:
        # What the page keeps for itself (its language, a draft) outlives the window.
        webview.start(private_mode=False, storage_path=str(storage))
    except Exception as error:
        if type(error).__name__ != "WebViewException":
            raise
        raise NoWindow(
            f"no window can be opened ({cause(error)}); "
            "install pywebview[qt], or leave --window out"
        ) from None
