"""Downloads under way: each in a thread of its own, with its progress, until stopped or done."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal

from backbone.errors import NearfarError, cause
from edge.models.download import DownloadError
from edge.models.pull import pull

State = Literal["running", "stopping", "stopped", "done", "failed"]


class _Stopped(Exception):
    """What a download is left by."""


class Download:
    """Download of one model; what came of it stays on disk, and a later one goes on from there.

    A stop takes effect at the next piece that comes, or when the server has been silent for 30 s.
    """

    def __init__(self, name: str, folder: Path, *, anyway: bool) -> None:
        self.name, self._folder, self._anyway = name, folder, anyway
        self.done_bytes = self.total_bytes = 0
        self.state: State = "running"
        self.error: NearfarError | None = None
        self.model = ""  # its name, once it is here
        self.ended = threading.Event()
        threading.Thread(target=self._run, name="nearfar-pull", daemon=True).start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return not self.ended.is_set()

    def stop(self) -> None:
        """Let it end; nothing that has come is lost."""
        if self.is_running:
            self.state = "stopping"

    def _run(self) -> None:
        try:
            done = pull(self.name, self._folder, anyway=self._anyway, tell=self._told)
            self.model, self.state = done.name, "done"
        except _Stopped:
            self.state = "stopped"
        except NearfarError as error:
            self.error, self.state = error, "failed"
        except Exception as error:  # such as a disk that was taken out
            self.error = DownloadError(f"{self.name} was not fetched ({cause(error)}); try again")
            self.state = "failed"
        finally:
            self.ended.set()

    def _told(self, _: str, done_bytes: int, total_bytes: int) -> None:
        self.done_bytes, self.total_bytes = done_bytes, total_bytes
        if self.state == "stopping":
            raise _Stopped


class Downloads:
    """The downloads of one process, the last of each name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Download] = {}

    def start(self, name: str, *, anyway: bool = False) -> Download:
        """Fetch a model; one that is being fetched already is not begun twice."""
        known = self._known.get(name)
        if known is None or not known.is_running:
            known = self._known[name] = Download(name, self._folder, anyway=anyway)
        return known

    def all(self) -> list[Download]:
        """Return the downloads, the oldest first."""
        return list(self._known.values())

    def stop(self, name: str) -> None:
        """Stop a download, or take one that has ended off the list."""
        known = self._known.get(name)
        if known is not None and known.is_running:
            known.stop()
        else:
            self._known.pop(name, None)
