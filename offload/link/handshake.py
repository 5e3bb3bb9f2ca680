"""What the cloud answers to HELLO: whether the two can talk, and on which terms."""

from __future__ import annotations

import time
from collections.abc import Sequence

from offload.link import wire
from offload.link.message_bodies import Hello, HelloRefused, Ready
from offload.link.running_requests import AnswerLimits
from offload.messages import ModelCard

HELLO_FIRST = HelloRefused(code="hello", message="say HELLO first")
SHUT_OUT = HelloRefused(code="key", message="this device may no longer use this cloud")


def answer_hello(
    hello: Hello, *, instance: str, cards: Sequence[ModelCard], limits: AnswerLimits
) -> Ready | HelloRefused:
    """Return the terms, or why a device of another age cannot be served."""
    if not hello.oldest_version <= wire.VERSION <= hello.newest_version:
        return _version_refusal(hello)
    return Ready(
        version=wire.VERSION,
        cards=tuple(cards),
        instance=instance,
        window=limits.window,
        max_message_bytes=wire.MAX_MESSAGE_BYTES,
        max_streams=limits.max_streams_per_device,
        clock_s=time.time(),
    )


def _version_refusal(hello: Hello) -> HelloRefused:
    theirs = f"{hello.oldest_version} to {hello.newest_version}"
    ours = f"{wire.OLDEST_VERSION} to {wire.VERSION}"
    older = "device" if hello.newest_version < wire.VERSION else "cloud"
    return HelloRefused(
        code="version",
        message=f"the device speaks protocol {theirs}, the cloud {ours}; update the {older}",
    )
