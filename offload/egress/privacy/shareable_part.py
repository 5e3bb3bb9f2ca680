"""Shareable part of a conversation: turns that must stay are left out, with their answers.

Some chat templates demand that a question and an answer take turns, and an answer says much of its
question: they go or stay together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from offload.messages import Message, Privacy, Request

_BY_STRICTNESS = (Privacy.LOCAL_ONLY, Privacy.ASK, Privacy.CLOUD_OK)


def strictest(*classes: Privacy) -> Privacy:
    """Return the class that keeps the most."""
    return min(classes, key=_BY_STRICTNESS.index)


def holds_private(request: Request) -> bool:
    """Whether any turn of a request must stay."""
    return any(message.stays for message in request.messages)


def class_of(request: Request) -> Privacy:
    """Return the class of a request: local_only where what is asked last must stay."""
    *_, last = _exchanges(request.messages) if request.messages else ((),)
    asked_stays = any(message.stays for message in last)
    return Privacy.LOCAL_ONLY if asked_stays else request.privacy


def part_that_leaves(request: Request) -> tuple[Request, int]:
    """Return the request without what must stay, and how many turns that were."""
    if not holds_private(request):
        return request, 0
    kept = tuple(
        message
        for exchange in _exchanges(request.messages)
        if not any(message.stays for message in exchange)
        for message in exchange
    )
    if not kept or kept[-1] is not request.messages[-1]:
        return request, 0  # what is asked last stays: nothing leaves, and the class says so
    num_left_out = len(request.messages) - len(kept)
    return msgspec.structs.replace(request, messages=kept), num_left_out


def _exchanges(messages: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
    """Yield each question with all that answers it; what the system says stands for itself."""
    together: list[Message] = []
    for message in messages:
        if together and (message.role in ("system", "user") or together[0].role == "system"):
            yield tuple(together)
            together = []
        together.append(message)
    if together:
        yield tuple(together)
