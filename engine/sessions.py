"""Sessions on disk: the KV cache of a conversation, kept so that it goes on after a restart.

A file is magic, a keyed hash of all that follows, a header and llama.cpp's state. The key is
random and lies in the same folder: a file that is damaged, half written, or from elsewhere does
not match, is ignored with a warning, and never reaches llama.cpp.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
import time
from pathlib import Path

import msgspec

from backbone.errors import cause
from backbone.files import SecretDamaged, kept_secret, replacement

MAGIC = b"NEARFAR-KV-1\n"
_MAC_BYTES = 32
_LENGTH_BYTES = 4
_KEY_NAME = "key"
_SUFFIX = ".kv"
STALE_S = 60.0  # after which a half-written file is of a process that was killed

_log = logging.getLogger("nearfar.sessions")


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Header of a saved state: the model, every token read, and the ranges still held."""

    model: str
    stream: list[int]
    kept: list[tuple[int, int]]


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """Saved conversation: its state and its header."""

    header: Header
    state: bytes


class SessionStore:
    """Session store: saved conversations of one model, the least recently used dropped first.

    Nothing here raises for a bad disk or a bad file: the cache is worth seconds, not an error.
    `model` names the file and how it is run; another model's states are never found.
    """

    def __init__(self, folder: Path, *, model: str, budget_bytes: int) -> None:
        self._folder = folder
        self.model = model
        self._budget_bytes = budget_bytes

    def save(self, session: str, saved: Saved) -> bool:
        """Replace the file of a conversation; tell whether it was kept."""
        header = msgspec.msgpack.encode(saved.header)
        body = len(header).to_bytes(_LENGTH_BYTES, "little") + header + saved.state
        if len(body) > self._budget_bytes:
            _log.warning("a session of %d bytes is over the budget and was not kept", len(body))
            return False
        try:
            self._make_folder()
            with (
                replacement(self.path(session), durable=False) as beside,
                beside.open("wb") as file,
            ):
                file.write(MAGIC + self._mac(body))
                file.write(body)
        except OSError as error:
            _log.warning("a session could not be kept (%s)", error.strerror)
            return False
        self._prune()
        return True

    def load(self, session: str) -> Saved | None:
        """Return a conversation, None where there is none or its file cannot be trusted."""
        path = self.path(session)
        try:
            data = path.read_bytes()
            saved = self._read(data)
            os.utime(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            _log.warning("a saved session is ignored (%s); the text is read anew", cause(error))
            return None
        return saved

    def forget(self, session: str) -> None:
        """Remove a conversation's files, of every model; none is no error."""
        forget_session(self._folder, session)

    def _read(self, data: bytes) -> Saved:
        start = len(MAGIC) + _MAC_BYTES
        if not data.startswith(MAGIC):
            raise ValueError("it is of another kind")
        body = memoryview(data)[start:]
        if not hmac.compare_digest(self._mac(body), data[len(MAGIC) : start]):
            raise ValueError("it is damaged or not ours")
        size = int.from_bytes(body[:_LENGTH_BYTES], "little")
        end = _LENGTH_BYTES + size
        header = msgspec.msgpack.decode(body[_LENGTH_BYTES:end], type=Header)
        if header.model != self.model:
            raise ValueError("it is of another model")
        return Saved(header=header, state=bytes(body[end:]))

    def path(self, session: str) -> Path:
        """Return the file of a conversation; its name tells neither session nor model."""
        return self._folder / f"{_short(session)}-{_short(self.model)}{_SUFFIX}"

    def _mac(self, body: bytes | memoryview) -> bytes:
        return hashlib.blake2b(body, digest_size=_MAC_BYTES, key=self._key()).digest()

    def _key(self) -> bytes:
        path = self._folder / _KEY_NAME
        try:
            return self._kept_key(path)
        except SecretDamaged:  # it guards copies of what is kept elsewhere: a new one loses little
            path.unlink(missing_ok=True)
            return self._kept_key(path)

    def _kept_key(self, path: Path) -> bytes:
        return kept_secret(path, lambda: secrets.token_bytes(32), lambda key: len(key) == 32)

    def _make_folder(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _prune(self) -> None:
        """Remove the least recently used files until the rest is within the budget.

        What a killed process left half written goes too.
        """
        with contextlib.suppress(OSError):
            for path in self._folder.glob(".*.part"):
                if time.time() - path.stat().st_mtime > STALE_S:
                    path.unlink(missing_ok=True)
            files = [(p.stat().st_mtime_ns, p.stat().st_size, p) for p in self._files()]
            total = sum(size for _, size, _ in files)
            for _, size, path in sorted(files):
                if total <= self._budget_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= size

    def _files(self) -> list[Path]:
        return list(self._folder.glob(f"*{_SUFFIX}"))


def forget_session(folder: Path, session: str) -> None:
    """Remove what a folder keeps of a conversation, of every model; none is no error."""
    with contextlib.suppress(OSError):
        name = f"{_short(session)}-*{_SUFFIX}"
        for path in (*folder.glob(name), *folder.glob(f".{name}.*.part")):  # half written ones, too
            path.unlink(missing_ok=True)


def _short(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
