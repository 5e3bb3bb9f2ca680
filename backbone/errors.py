"""Errors that a person may see: one line each, which says what is wrong and what to do.

NearfarError
├── CheckpointError          a model file or folder that cannot be run
│   └── TemplateRefusal      a chat template that cannot take a conversation
├── RequestError             a request that makes no sense
│   └── SchemaRefusal        a JSON schema that no answer can be held to
├── MissingExtra             a package that an optional feature needs
├── SecretDamaged            a file that should hold a secret and does not (files.py)
├── WrongUsage               options or arguments that no run can follow: exit status 2
└── offload.errors
    ├── ContextLengthError   also a RequestError
    ├── Unsupported          an engine that cannot do this; also a RequestError
    ├── Overloaded           too much to do just now
    ├── EngineStopped        an engine that is closed or broken
    ├── SettingsError        a wrong setting
    └── LinkError            the cloud cannot be used
        ├── CloudUnreachable
        ├── KeyRefused
        ├── CloudFailed
        │   ├── ChainRefused a request that goes round in a chain of machines
        │   └── CloudStopped also an EngineStopped
        ├── CloudBusy        also an Overloaded
        └── EgressBlocked    a text that may not leave the device
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class NearfarError(Exception):
    """Error that a person can mend; its message names the remedy."""


class CheckpointError(NearfarError):
    """A model file or folder that is missing, damaged or of a kind this code cannot run."""


class TemplateRefusal(CheckpointError):
    """A chat template that says no to the messages it was given: two turns of one role, say."""


class WrongUsage(NearfarError):
    """Options or arguments of a command that contradict each other or mean nothing."""


class RequestError(NearfarError):
    """A request that makes no sense: an empty prompt, a temperature below zero."""


class SchemaRefusal(RequestError):
    """A JSON schema that cannot be kept: unknown words, no possible answer, too complex."""


class MissingExtra(NearfarError):
    """A feature whose packages are not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; pip install 'nearfar[{extra}]' brings it")


# Of one model. The largest mixtures of experts have about 150,000, scales among them.
MAX_TENSORS = 200_000


def require_few_tensors(path: object, number: int) -> None:
    """Raise CheckpointError for more tensors than any model has: each takes time to look at."""
    if number > MAX_TENSORS:
        raise CheckpointError(
            f"{path} has {number:,} tensors and a model has at most {MAX_TENSORS:,}; "
            "fetch it again, or choose another"
        )


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


@contextmanager
def as_typed() -> Iterator[None]:
    """Raise WrongUsage for what is refused within: a command's own options, checked and no more.

    What no other option would mend keeps its kind: a missing package, a damaged model.
    """
    try:
        yield
    except (WrongUsage, MissingExtra, CheckpointError):
        raise
    except NearfarError as error:
        raise WrongUsage(str(error)) from None
