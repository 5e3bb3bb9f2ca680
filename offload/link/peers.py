"""Who is connected to the cloud, and who of them listens to which answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from offload.link.answer_task import Key, Owner
from offload.link.health import Pulse


@dataclass(eq=False)
class Peer:
    """One connection of one device; a device that reconnects is a new peer."""

    identity: bytes
    owner: Owner
    pulse: Pulse
    asking: set[str] = field(default_factory=set)


class Peers:
    """The connections by identity; an answer has one listener, the last that asked for it."""

    def __init__(self) -> None:
        self._by_identity: dict[bytes, Peer] = {}
        self._listening: dict[Key, Peer] = {}

    def __len__(self) -> int:
        return len(self._by_identity)

    def find(self, identity: bytes) -> Peer | None:
        """Return who has this identity, or None."""
        return self._by_identity.get(identity)

    def all(self) -> list[Peer]:
        """Return everyone who is connected."""
        return list(self._by_identity.values())

    def greet(self, identity: bytes, owner: Owner, pulse: Pulse) -> None:
        """Take a newcomer; one who is known already stays as they are."""
        self._by_identity.setdefault(identity, Peer(identity, owner, pulse))

    def listen(self, peer: Peer, key: Key) -> None:
        """From now on, this peer hears the answer and no other does."""
        self.ignore(key)
        self._listening[key] = peer
        peer.asking.add(key.request_id)

    def ignore(self, key: Key) -> None:
        """Nobody listens to this answer any more."""
        peer = self._listening.pop(key, None)
        if peer is not None:
            peer.asking.discard(key.request_id)

    def part(self, peer: Peer) -> list[Key]:
        """Forget a peer, and return the answers that it was listening to."""
        self._by_identity.pop(peer.identity, None)
        keys = [Key(peer.owner, request_id) for request_id in peer.asking]
        for key in keys:
            self.ignore(key)
        return keys
