"""What a person typed wrong, told apart from what went wrong: exit status 2, and not 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backbone.errors import CheckpointError, MissingExtra, NearfarError, WrongUsage


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
