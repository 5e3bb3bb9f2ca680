"""Failsafe for estimates: a failure is logged and a default taken, and the request goes on.

What the policy works out is measured or learnt, and any of it may be a figure nobody thought of;
the answer that a person waits for does not depend on it.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from backbone.errors import NearfarError

T = TypeVar("T")
_log = logging.getLogger("nearfar.policy")


class Failsafe:
    """Guard of one request's estimates: after the first that fails it runs no more of them.

    `refusals` are raised all the same: they say that what was asked for cannot be kept.
    """

    def __init__(self, *refusals: type[NearfarError]) -> None:
        self._refusals = refusals
        self.failed = False

    def __call__(self, estimate: Callable[[], T], otherwise: T) -> T:
        """Return what an estimate says, and `otherwise` where it fails or one before it did."""
        if self.failed:
            return otherwise
        try:
            return estimate()
        except self._refusals:
            raise
        except Exception as error:
            self.failed = True
            _log.warning(
                "nearfar: the policy goes without an estimate that failed (%s)", _named(error)
            )
            return otherwise


def _named(error: Exception) -> str:
    """Return what is known of an error, without text that could quote a request."""
    if isinstance(error, NearfarError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
