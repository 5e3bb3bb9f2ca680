"""Peers: the devices that are connected, how they are greeted, and who reads which answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from offload.link import wire
from offload.link.answer_task import Key, Owner
from offload.link.health import Heartbeat
from offload.link.message_bodies import Hello, HelloRefused, Ready
from offload.link.running_requests import AnswerLimits
from offload.messages import ModelCard


@dataclass(eq=False)
class Peer:
    """Peer: one connection of one device; a device that reconnects is a new one."""

    identity: bytes
    owner: Owner
    heartbeat: Heartbeat
    hears_reading: bool = False
    version: int = wire.VERSION
    asking: set[str] = field(default_factory=set)


class Peers:
    """Peers by identity; an answer has one listener, the last that asked for it."""

    def __init__(self) -> None:
        self._by_identity: dict[bytes, Peer] = {}
        self.listeners: dict[Key, Peer] = {}

    def __len__(self) -> int:
        return len(self._by_identity)

    def find(self, identity: bytes) -> Peer | None:
        """Return who has this identity, or None."""
        return self._by_identity.get(identity)

    def all(self) -> list[Peer]:
        """Return everyone who is connected."""
        return list(self._by_identity.values())

    def greet(self, peer: Peer) -> None:
        """Take a newcomer; one who is known already stays as they are."""
        self._by_identity.setdefault(peer.identity, peer)

    def listen(self, peer: Peer, key: Key) -> None:
        """From now on, this peer hears the answer and no other does."""
        self.ignore(key)
        self.listeners[key] = peer
        peer.asking.add(key.request_id)

    def ignore(self, key: Key) -> None:
        """Nobody listens to this answer any more."""
        peer = self.listeners.pop(key, None)
        if peer is not None:
            peer.asking.discard(key.request_id)

    def part(self, peer: Peer) -> list[Key]:
        """Forget a peer, and return the answers that it was listening to."""
        self._by_identity.pop(peer.identity, None)
        keys = [Key(peer.owner, request_id) for request_id in peer.asking]
        for key in keys:
            self.ignore(key)
        return keys


HELLO_FIRST = HelloRefused(code="hello", message="say HELLO first")
SHUT_OUT = HelloRefused(code="key", message="this device may no longer use this cloud")


def answer_hello(
    hello: Hello, *, instance: str, cards: Sequence[ModelCard], limits: AnswerLimits
) -> Ready | HelloRefused:
    """Return the terms, or why a device of another age cannot be served.

    The version is the highest that both speak.
    """
    version = min(wire.VERSION, hello.newest_version)
    if version < max(wire.OLDEST_VERSION, hello.oldest_version):
        return _version_refusal(hello)
    return Ready(
        version=version,
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
    older = "device" if hello.newest_version < wire.OLDEST_VERSION else "cloud"
    return HelloRefused(
        code="version",
        message=f"the device speaks protocol {theirs}, the cloud {ours}; update the {older}",
    )
