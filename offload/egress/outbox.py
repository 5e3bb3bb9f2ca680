"""Outbox: questions answered near while the far model was away, asked again when it is back.

The texts wait in a file that only its owner may read, and are gone from it once they are asked
again or forgotten. Only texts of class cloud_ok ever get in. One process at a time asks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import msgspec

from backbone.errors import NearfarError, cause
from backbone.files import open_private
from offload.collect import collect
from offload.config.file_lock import lock
from offload.egress.privacy.shareable_part import class_of, part_that_leaves
from offload.engine import Engine
from offload.errors import (
    CloudUnreachable,
    EgressBlocked,
    EgressNotPermitted,
    EngineStopped,
    LinkError,
    SettingsError,
)
from offload.link.json_store import JsonStore
from offload.messages import Finish, Privacy, Request

_log = logging.getLogger("nearfar.outbox")
_MAX_TRIES = 5

# Why a near answer was given that the cloud might better.
OUT_OF_REACH = frozenset({"offline", "unreachable", "cloud_failed", "cut_off"})


class OutboxEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Outbox entry: a question that waits for the cloud, and the near answer given meanwhile."""

    id: str
    request: Request
    answer: str
    confidence: float | None
    queued_at: float  # seconds since the epoch
    tries: int = 0


class UpgradedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Upgraded answer: the cloud's, to be offered beside the first one."""

    waiting: OutboxEntry
    answer: str
    finish: Finish


class Outbox:
    """Outbox of questions that wait for the cloud: at most `max_entries`, and `max_bytes` on disk.

    Without a path they wait in memory.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        below: float = 0.5,
        max_entries: int = 100,
        max_bytes: int = 4_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.why_waiting = ""  # what the settings, or a person, had against asking
        self._kept = JsonStore(OutboxEntry, path)
        self._turn = None if path is None else path.with_name(".asking")
        self._below = below
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._clock = clock

    def put(self, request: Request, answer: str, finish: Finish) -> str | None:
        """Queue a question if its near answer may be bettered; return its id there, else None.

        That is: it may leave, the cloud was out of reach, and the near model was not sure (below
        `below`, or unknown). Where the file cannot be written, a warning is logged and None
        returned: the first answer stands.
        """
        if not self._is_worth_it(request, finish):
            return None
        assert finish.route is not None, "what is worth it has a route"
        waiting = OutboxEntry(
            id=uuid.uuid4().hex[:12],
            request=part_that_leaves(request)[0],
            answer=answer,
            confidence=finish.route.confidence,
            queued_at=self._clock(),
        )
        try:
            self._kept.change(lambda items: self._bounded([*items, waiting]))
            return waiting.id if any(each.id == waiting.id for each in self._kept.items()) else None
        except (OSError, SettingsError) as error:
            _log.warning(
                "the outbox takes nothing (%s); this answer will not be bettered", cause(error)
            )
            return None

    def pending(self) -> list[OutboxEntry]:
        """Return what waits, the oldest first. Raises SettingsError where the file is damaged."""
        return list(self._kept.items())

    def forget(self, name: str) -> int:
        """Forget one by its id, or "all"; return how many. Raises SettingsError, OSError."""
        before = len(self.pending())
        self._kept.change(lambda items: [each for each in items if name not in (each.id, "all")])
        return before - len(self.pending())

    def forget_session(self, session: str) -> None:
        """Forget what was asked in a conversation. Raises SettingsError, OSError."""
        if any(each.request.session == session for each in self.pending()):
            self._kept.change(
                lambda items: [each for each in items if each.request.session != session]
            )

    async def run(
        self, cloud: Engine, *, wanted: Callable[[OutboxEntry], bool] = lambda _: True
    ) -> AsyncGenerator[UpgradedAnswer, None]:
        """Ask what is wanted again; each is forgotten once the caller has come back for the next.

        Ends without an error where the cloud is still out of reach, or where another process is
        asking already: what is left goes on waiting.
        """
        with self._claim() as mine:
            if mine:
                async with aclosing(self._ask_all(cloud, wanted)) as betters:
                    async for better in betters:
                        yield better

    @contextlib.contextmanager
    def _claim(self) -> Iterator[bool]:
        """Take the turn to ask, which a process that dies gives back; False where it is taken."""
        if self._turn is None or not self.pending():
            yield self._turn is None
            return
        descriptor = open_private(self._turn, os.O_RDWR | os.O_CREAT)
        try:
            yield lock(descriptor, wait=False)
        finally:
            os.close(descriptor)

    async def _ask_all(
        self, cloud: Engine, wanted: Callable[[OutboxEntry], bool]
    ) -> AsyncGenerator[UpgradedAnswer, None]:
        for waiting in self.pending():
            if not wanted(waiting):
                continue
            try:
                better = await _asked(cloud, waiting)
            except EgressNotPermitted as error:
                self.why_waiting = str(error).partition(", so")[0]
                continue
            except EgressBlocked:
                self.forget(waiting.id)
                continue
            except (LinkError, EngineStopped) as error:
                _log.info("the cloud is still out of reach: %s", error)
                # Where nothing left, nothing was tried: a day offline is no reason to give up.
                if not isinstance(error, CloudUnreachable) or error.bytes_sent != 0:
                    self._tried(waiting)
                return
            except NearfarError as error:
                _log.warning("a question that waited cannot be asked again: %s", error)
                self.forget(waiting.id)
                continue
            yield better
            self.forget(waiting.id)

    def _is_worth_it(self, request: Request, finish: Finish) -> bool:
        route = finish.route
        if class_of(request) is not Privacy.CLOUD_OK or route is None or route.served_by != "edge":
            return False
        unsure = route.confidence is None or route.confidence < self._below
        return route.reason in OUT_OF_REACH and unsure and finish.reason in ("stop", "length")

    def _bounded(self, items: list[OutboxEntry]) -> list[OutboxEntry]:
        """Return the newest that fit."""
        room, fitting = self._max_bytes, []
        for each in reversed(items[-self._max_entries :]):
            room -= len(msgspec.json.encode(each))
            if room < 0:
                break
            fitting.append(each)
        return fitting[::-1]

    def _tried(self, waiting: OutboxEntry) -> None:
        """Count a vain attempt; after enough of them a question waits no longer."""
        again = msgspec.structs.replace(waiting, tries=waiting.tries + 1)

        def count(items: list[OutboxEntry]) -> list[OutboxEntry]:
            counted = [again if each.id == again.id else each for each in items]
            return [each for each in counted if each.tries < _MAX_TRIES]

        self._kept.change(count)


async def _asked(cloud: Engine, waiting: OutboxEntry) -> UpgradedAnswer:
    # A new id: the cloud may remember the old one. Its deadline has passed long ago.
    request = msgspec.structs.replace(waiting.request, id=uuid.uuid4().hex, deadline_s=None)
    answer = await collect(cloud.generate(request))
    if answer.finish.reason == "error":
        raise LinkError(answer.finish.error or "the cloud could not finish; ask again later")
    return UpgradedAnswer(waiting=waiting, answer=answer.written, finish=answer.finish)
