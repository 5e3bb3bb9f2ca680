"""Why something failed, in a few words that a person can use."""

from __future__ import annotations

import os


def cause(error: BaseException) -> str:
    """Return the reason of an error without the file or address that its message names already.

    The system's own words for a file or a socket: asyncio, zmq and urllib each add the path, the
    address or the number to theirs.
    """
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    inner = getattr(error, "reason", None)  # urllib wraps the socket's error
    if isinstance(inner, OSError):
        return cause(inner)
    number = getattr(error, "errno", None)
    if isinstance(number, int) and _is_of_the_system(error) and 0 < number < 200:
        return os.strerror(number)
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _is_of_the_system(error: BaseException) -> bool:
    # OpenSSL and the resolver number their errors otherwise; zmq uses the system's numbers.
    kind = type(error)
    return not kind.__module__.startswith("ssl") and kind.__name__ not in ("gaierror", "herror")
