"""Serve options: how the HTTP server listens, whom it lets in, and limits for each request."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from offload.errors import SettingsError
from offload.link.quota import Quota
from offload.messages import Privacy

MIN_KEY_LEN = 16
_NAMED_KEY = re.compile(r"(?P<name>[A-Za-z0-9_-]{1,32}):(?P<key>.*)")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#*]+")


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of the HTTP face. Raises SettingsError.

    `allowed_hosts` are names a client may call this server by, besides the loopback's own; without
    any, a server off loopback is called by any name, since its keys guard it. `privacy` is the
    class of a request that does not name one of its own by its model.
    """

    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free one
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()  # of pages in browsers that may ask, as https://there:8000
    privacy: Privacy = Privacy.CLOUD_OK
    temperature: float | None = None  # of a chat that names none; None: as the model's files say
    max_body_bytes: int = 4 * 1024 * 1024
    max_choices: int = 16  # of one request: its prompts times its n
    max_running: int = 256  # requests handed to the engine at the same time
    max_queued: int = 64  # requests of one key that may wait for their turn
    quota: Quota = field(default_factory=Quota)  # of each key
    used_file: Path | None = None  # where the day's budgets outlive a restart
    request_timeout_s: float = 600.0
    body_timeout_s: float = 30.0  # for a request's head, and as long again for its body
    warm_up: bool = True  # ask the engine for one token before anybody does
    log: str = ""  # to stderr, as "json" or "text"
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def __post_init__(self) -> None:
        _between("port", self.port, 0, 65_535)
        _between("max_body_bytes", self.max_body_bytes, 1024, 1024**3)
        _between("max_choices", self.max_choices, 1, 1024)
        _between("max_running", self.max_running, 1, 100_000)
        _between("max_queued", self.max_queued, 0, 100_000)
        _between("request_timeout_s", self.request_timeout_s, 0.01, 86_400)
        _between("body_timeout_s", self.body_timeout_s, 0.01, 3600)
        self._check_keys()
        self._check_tls()
        for origin in self.origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise SettingsError(
                    f"serve.origins has {origin!r}; write SCHEME://HOST or SCHEME://HOST:PORT, "
                    "as a browser says it, or * for every page"
                )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    def _check_keys(self) -> None:
        for _, key in map(split_key, self.api_keys):
            if len(key) < MIN_KEY_LEN or not key.isascii() or not key.isprintable() or " " in key:
                raise SettingsError(
                    f"one of serve.api_keys is shorter than {MIN_KEY_LEN} characters or has "
                    "spaces or other than ASCII in it; make one with: openssl rand -hex 32"
                )
        if not self.is_loopback and not self.api_keys:
            raise SettingsError(
                f"serve.host is {self.host!r}, which others can reach, and there are no API keys; "
                "set serve.api_keys, or listen on 127.0.0.1"
            )

    def _check_tls(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsError("serve.tls_cert and serve.tls_key go together; set both or none")
        for name, path in (("tls_cert", self.tls_cert), ("tls_key", self.tls_key)):
            if path is not None and not path.is_file():
                raise SettingsError(f"serve.{name} is {path}, which is no file; name a PEM file")


def split_key(entry: str) -> tuple[str, str]:
    """Return the name and the key of one entry of api_keys, `name:KEY` or `KEY`."""
    match = _NAMED_KEY.fullmatch(entry)
    if match is not None:
        return match["name"], match["key"]
    return hashlib.sha256(entry.encode("utf-8", "surrogateescape")).hexdigest()[:8], entry


def is_loopback(host: str) -> bool:
    """Whether a host name or address, without a port, is this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _between(name: str, value: float, low: float, high: float) -> None:
    if math.isnan(value) or not low <= value <= high:
        raise SettingsError(f"serve.{name} is {value}; it must lie between {low} and {high}")
