"""Where things lie in machines: IP addresses and file paths."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

_V4 = re.compile(r"(?<![\w.])\d{1,3}(?:\s?\.\s?\d{1,3}){3}(?![\w]|\.\d)")
_V6 = re.compile(
    r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4})(?![\w:])", re.I
)
_VERSION = re.compile(r"\b(?:version|ver\.?|release|v|build|section|chapter|clause)\s{0,2}$", re.I)

_NAME = r"[\w.@+%~-]"
_ROOTS = (
    "home|Users|root|etc|var|usr|opt|tmp|mnt|media|srv|data|dev|proc|run|lib|bin|boot|private|"
    "Volumes|Library|Applications|workspace|app|storage|nfs|backup|backups|export"
)
_POSIX = re.compile(
    rf"(?<![\w.:/<@~-])(?:~{_NAME}*/|\.{{1,2}}/(?={_NAME}+/)|/(?:{_ROOTS})/|/(?={_NAME}+/{_NAME}+/{_NAME}))"
    rf"(?:(?:{_NAME}|\\ )+/)*(?:(?:{_NAME}|\\ )*[\w~])?/?"
)
_WINDOWS = re.compile(
    r"(?<![\w])(?:[A-Za-z]:[\\/]{1,2}|\\\\[\w.$-]{1,63}\\)(?:[^\\/:*?\"<>|\r\n\t,;]{1,80}[\\/]{1,2})*"
    r"(?:[\w()$~-]+(?:[ .][\w()$~-]+){0,4}?\.[A-Za-z]\w{0,5}(?![.\w])|[\w.()$~-]+)?"
)


def find_ips(text: str) -> Iterator[tuple[int, int]]:
    """Find IPv4 and IPv6 addresses other than this machine's own and those of examples."""
    for match in _V4.finditer(text):
        version = _VERSION.search(text[max(0, match.start() - 12) : match.start()])
        if not version and _is_somewhere("".join(match[0].split())):
            yield match.span()
    for match in _V6.finditer(text):
        if _is_somewhere(match[0]):
            yield match.span()


def _is_somewhere(address: str) -> bool:
    try:
        read = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (read.is_loopback or read.is_unspecified or address.endswith("::"))


def find_paths(text: str) -> Iterator[tuple[int, int]]:
    """Find absolute and home paths of POSIX and Windows systems; addresses of pages are none."""
    for pattern in (_POSIX, _WINDOWS):
        for match in pattern.finditer(text):
            end = match.end() - (len(match[0]) - len(match[0].rstrip(" .,;:")))
            if end - match.start() >= 4:
                yield match.start(), end
