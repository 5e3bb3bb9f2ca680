"""Running service: the file by which commands find `nearfar up`, and the words they exchange.

The file is private: whoever can read its token is the same person on the same machine.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from backbone.errors import (
    CheckpointError,
    NearfarError,
    RequestError,
    SchemaRefusal,
    TemplateRefusal,
)
from backbone.files import atomic_write, make_private
from offload.config.places import Places
from offload.config.settings import EdgeSettings
from offload.errors import (
    ContextLengthError,
    EngineStopped,
    Overloaded,
    SettingsError,
    Unsupported,
)
from offload.messages import Delta, Finish, ModelCard, Request

GENERATE_PATH, FORGET_PATH = "/nearfar/generate", "/nearfar/forget"


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service that runs: its process, its address on loopback, and the token of its person."""

    pid: int
    url: str  # http://127.0.0.1:PORT
    token: str

    @property
    def address(self) -> tuple[str, int]:
        """Return its host and port."""
        parts = urlsplit(self.url)
        assert parts.hostname and parts.port, "a service is noted with its address"
        return parts.hostname, parts.port


class NearQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the near model of these settings, whose `model` is the path of a file."""

    edge: EdgeSettings
    request: Request


class NearForget(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that is to be forgotten by the near model of these settings."""

    edge: EdgeSettings
    session: str


class NearLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a near answer: the model's card first, then Deltas, then a Finish or an error.

    `read` tells how many tokens of how many of a long prompt have been read.
    """

    read: tuple[int, int] | None = None
    card: ModelCard | None = None
    delta: Delta | None = None
    finish: Finish | None = None
    error: str = ""
    kind: str = ""  # of the error


def file_of(here: Places) -> Path:
    """Return where the service of a person is noted."""
    return here.data / "service" / "service.json"


def note(here: Places, url: str, token: str) -> Path:
    """Note this process as the service that runs at a URL; return the file, to be removed."""
    path = file_of(here)
    make_private(path.parent)
    service = Service(pid=os.getpid(), url=url, token=token)
    atomic_write(path, msgspec.json.encode(service))
    return path


def forget(path: Path) -> None:
    """Remove a note, unless another process has written its own there."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        if msgspec.json.decode(path.read_bytes(), type=Service).pid == os.getpid():
            path.unlink()


def find(here: Places) -> Service | None:
    """Return the service that runs, None where none does or its file is not private.

    One that was killed leaves its file: whoever has its port since is told neither token nor text.
    """
    path = file_of(here)
    try:
        status = path.stat()
        if os.name == "posix" and (status.st_mode & 0o077 or status.st_uid != os.getuid()):
            return None
        service = msgspec.json.decode(path.read_bytes(), type=Service)
        return service if _listens(service) else None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, AssertionError, ValueError):
        return None


def _listens(service: Service) -> bool:
    """Whether the process that noted itself is the one that has the port."""
    import psutil

    _, port = service.address
    try:
        held = psutil.Process(service.pid).net_connections("tcp")
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr[1] == port for each in held)


def new_token() -> str:
    """Return a token for a service."""
    return secrets.token_urlsafe(24)


_KINDS: dict[str, type[NearfarError]] = {
    kind.__name__: kind
    for kind in (
        CheckpointError,
        TemplateRefusal,
        RequestError,
        SchemaRefusal,
        Unsupported,
        Overloaded,
        EngineStopped,
        SettingsError,
    )
}


def told_of(error: NearfarError) -> NearLine:
    """Return the line that tells of an error."""
    return NearLine(error=str(error), kind=type(error).__name__)


def error_of(line: NearLine) -> NearfarError:
    """Return the error that a line tells of, of the same kind where that is known."""
    if line.kind == ContextLengthError.__name__:
        # By its own words, which its constructor would make anew.
        return ContextLengthError.__new__(ContextLengthError, line.error)
    return _KINDS.get(line.kind, NearfarError)(line.error)
