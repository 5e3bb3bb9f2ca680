"""Addresses of clouds: their form, checked before anybody connects."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_link_address(text: str) -> bool:
    """Return whether a text is tcp://HOST:PORT or ipc://PATH, as ZeroMQ dials them."""
    scheme, _, rest = text.partition("://")
    if scheme == "ipc":
        return bool(rest)
    return scheme == "tcp" and _has_host(text, needs_port=True)


def is_web_address(text: str) -> bool:
    """Return whether a text is http(s)://HOST, with or without a port and a path."""
    return text.startswith(("http://", "https://")) and _has_host(text, needs_port=False)


def is_loopback_web_address(text: str) -> bool:
    """Return whether a text is http(s)://HOST of this machine alone."""
    if not is_web_address(text):
        return False
    host = urlsplit(text).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean any machine
        return False


def _has_host(text: str, *, needs_port: bool) -> bool:
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and (bool(parts.port) or not needs_port)
    except ValueError:  # a port that is no number, or brackets that do not close
        return False
