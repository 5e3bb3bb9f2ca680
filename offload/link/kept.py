"""Small private files: lists that several processes read and change, written whole."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from offload.errors import SettingsError
from offload.locking import lock, open_private

T = TypeVar("T")


class Kept(Generic[T]):
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
                stack.enter_context(_turn(self._path.parent))
            self._items = change(list(self.items()))
            if self._path is not None:
                write_private(self._path, msgspec.json.encode(self._items))
                self._stamp = _stamp(self._path)

    def _read(self, path: Path) -> list[T]:
        try:
            return self._decoder.decode(path.read_bytes())
        except FileNotFoundError:
            return []
        except msgspec.DecodeError as error:
            raise SettingsError(f"{path} is damaged ({error}); mend it or delete it") from None


def write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file only its owner may read, beside itself and renamed; its folder becomes 0700.

    Where `replace` is false, a file that is already there stays as it is.
    """
    _make_private(path.parent)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            beside.replace(path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)  # unlike a rename, fails where another process was first
    finally:
        beside.unlink(missing_ok=True)


def _make_private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    _make_private(folder)
    descriptor = open_private(folder / ".turn", os.O_RDWR | os.O_CREAT)
    try:
        lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
