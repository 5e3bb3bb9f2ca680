"""JSON store: a private list that several processes read and change, written whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from backbone.files import atomic_write, make_private
from offload.config.file_lock import turn
from offload.config.obstacles import obstacle
from offload.errors import SettingsError

T = TypeVar("T")


class JsonStore(Generic[T]):
    """A list kept as JSON and read anew when the file changes; without a path, in memory."""

    def __init__(self, item: type[T], path: Path | None = None) -> None:
        self._decoder = msgspec.json.Decoder(list[item])  # type: ignore[valid-type]
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._items: list[T] = []

    def items(self) -> list[T]:
        """Return the list as it is now; the same object while nothing has changed.

        Raises SettingsError where the file is damaged.
        """
        if self._path is not None:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._items = self._read(self._path)
                self._stamp = stamp
        return self._items

    def change(self, change: Callable[[list[T]], list[T]]) -> None:
        """Replace the list by what `change` makes of it; processes take turns."""
        with contextlib.ExitStack() as stack:
            if self._path is not None:
                make_private(self._path.parent)
                stack.enter_context(turn(self._path.parent / ".turn"))
            self._items = change(list(self.items()))
            if self._path is not None:
                atomic_write(self._path, msgspec.json.encode(self._items))
                self._stamp = _stamp(self._path)

    def _read(self, path: Path) -> list[T]:
        try:
            return self._decoder.decode(path.read_bytes())
        except FileNotFoundError:
            return []
        except msgspec.DecodeError as error:
            raise SettingsError(
                f"{path} is damaged ({error}); mend it, or move it away to begin a new one"
            ) from None
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {obstacle(path, error)}") from None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
