"""The assistant in a window: closing it ends the server, and what goes wrong is one line."""

from __future__ import annotations

import sys
import threading
import types
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbone.errors import MissingExtra
from edge.assistant.server import NoWindow, run, show
from edge.chat.ask_options import AskOptions
from offload.errors import SettingsError


class WebViewException(Exception):
    """As pywebview's own is called."""


class FakeWebview(types.ModuleType):
    """pywebview as far as it is used; `during` is what happens while its window is open."""

    def __init__(self, during: Callable[[str], None]) -> None:
        super().__init__("webview")
        self.settings: dict[str, Any] = {}
        self.threads: list[threading.Thread] = []
        self.storage = ""
        self._during, self._url = during, ""

    def create_window(self, title: str, url: str, **_: Any) -> None:
        assert title == "nearfar"
        self._url = url

    def start(self, *, private_mode: bool, storage_path: str) -> None:
        assert not private_mode
        self.threads.append(threading.current_thread())
        self.storage = storage_path
        self._during(self._url)


def open_window(fake: FakeWebview, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webview", fake)
    run(AskOptions(offline=True), port=0, open_page=True, as_json=False, in_window=True)


def test_a_closed_window_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def look(url: str) -> None:
        seen.append(url)
        with urllib.request.urlopen(url.partition("#")[0]) as page:
            assert b"<title>nearfar</title>" in page.read()

    fake = FakeWebview(look)
    open_window(fake, monkeypatch)
    assert fake.threads == [threading.main_thread()] and "#token=" in seen[0]
    with pytest.raises(OSError):
        urllib.request.urlopen(seen[0].partition("#")[0])
    assert not [each for each in threading.enumerate() if each.name == "assistant"]


def test_without_pywebview_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webview", None)
    with pytest.raises(MissingExtra, match=r"nearfar\[window\]"):
        run(AskOptions(offline=True), port=0, open_page=True, as_json=False, in_window=True)


def test_a_machine_without_a_screen_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise WebViewException("You must have either QT or GTK installed")

    with pytest.raises(NoWindow, match="leave --window out"):
        open_window(FakeWebview(fail), monkeypatch)


def test_a_server_that_cannot_begin_opens_no_window(tmp_path: Path) -> None:
    def serve(_: Callable[[str], None]) -> None:
        raise SettingsError("the port is taken; choose another --port")

    stopped: list[bool] = []
    fake = FakeWebview(lambda _: None)
    with pytest.raises(SettingsError, match="another --port"):
        show(fake, serve, lambda: stopped.append(True), tmp_path)
    assert fake.threads == [] and stopped
