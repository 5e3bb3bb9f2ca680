"""The page in a window of its own, by pywebview; closing the window ends the server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from backbone.error_causes import cause
from backbone.errors import MissingExtra, NearfarError

# Serves until `stop` is called from any thread, and calls back with the page's URL.
Serve = Callable[[Callable[[str], None]], None]


class NoWindow(NearfarError):
    """This machine shows no window."""


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
