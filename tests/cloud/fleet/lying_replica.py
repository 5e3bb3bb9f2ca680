"""A replica that lies or is slow: the process of a fleet, with a cloud of its own making in it."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from offload.link import message_bodies, wire
from offload.messages import Delta, Finish
from tests.offload.link.lying import READY, LyingCloud, pieces

_MANY = 5000
_END = Finish(reason="stop")


def _endless(about: str) -> Iterable[bytes]:
    for first in range(0, _MANY, 50):
        yield wire.encode(pieces([Delta(text="more ", token_ids=(1,))] * 50, first), about)


def _begun(about: str) -> Iterable[bytes]:
    yield wire.encode(pieces([Delta(text="so far", token_ids=(1,))]), about)


def _another(_: str) -> Iterable[bytes]:
    yield wire.encode(pieces([Delta(text="of another", token_ids=(1,))]), "another")
    yield wire.encode(message_bodies.End(1, _END), "another")


ANSWERS: dict[str, Callable[[str], Iterable[bytes]]] = {
    "endless": _endless,
    "begun": _begun,
    "another": _another,
    "silent": lambda _: (),
}


def open_lying(answer: str, deaf_after: int = 0) -> NoReturn:
    """Serve in place of an engine until the parent leaves; deaf after so many messages."""
    asyncio.run(_serve(answer, deaf_after))
    sys.exit(0)


async def _serve(answer: str, deaf_after: int) -> None:
    class Cloud(LyingCloud):
        def _said(self, message: Any) -> Iterable[bytes]:
            is_deaf = deaf_after and next(heard) >= deaf_after
            return () if is_deaf else super()._said(message)

    heard = itertools.count()
    async with Cloud(ready=READY, answer=ANSWERS[answer]).listening(sys.argv[1]):
        await asyncio.to_thread(sys.stdin.buffer.read)
