"""Health of the link: when the other side was last heard, how far it is, and its load."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from offload.link.message_bodies import Load


@dataclass(frozen=True, kw_only=True)
class CloudSnapshot:
    """Standing of a cloud, as a policy may know it before it asks; nothing is sent for it.

    `healthy` is False after a loss or a failed attempt, until the cloud answers again. `rtt_s` is
    the median of the last round trips; `queue_s` and `first_piece_s` are what the cloud said at the
    last ping of its last answers: how long they waited for the engine, and until its first words.
    None is not yet known; `num_waiting` requests, of all devices, had not yet been begun.
    """

    healthy: bool
    rtt_s: float | None = None
    queue_s: float | None = None
    first_piece_s: float | None = None
    num_waiting: int = 0


@dataclass(frozen=True, kw_only=True)
class LinkHealth:
    """Snapshot of the link; `rtt_s` is the median of the last pings, None before the first.

    `clock_offset_s` is what to add to our wall clock to get the cloud's; `cloud_in_flight` are the
    requests the cloud was serving at the last ping, for all its devices.
    """

    alive: bool
    rtt_s: float | None
    in_flight: int
    cloud_in_flight: int
    clock_offset_s: float | None
    bytes_sent: int
    bytes_received: int


@dataclass(frozen=True, kw_only=True)
class HeartbeatTimes:
    """Heartbeat times: how often to ping, and after how long a silence a peer is lost."""

    ping_after_s: float = 0.4
    dead_after_s: float = 1.6

    def __post_init__(self) -> None:
        assert 0 < 2 * self.ping_after_s < self.dead_after_s, "a dead peer must miss two pings"

    @property
    def look_every_s(self) -> float:
        return self.ping_after_s / 2


class Heartbeat:
    """Heartbeat of one peer: any traffic counts, in both directions."""

    def __init__(self, times: HeartbeatTimes, clock: Callable[[], float] = time.monotonic) -> None:
        self._times = times
        self._clock = clock
        self._heard_s = self._sent_s = self._looked_s = clock()

    def heard(self) -> None:
        self._heard_s = self._clock()

    def sent(self) -> None:
        self._sent_s = self._clock()

    def look(self) -> None:
        """Say, every `look_every_s`, that we listen: a time when we did not is no silence."""
        now_s = self._clock()
        absent_s = max(0.0, now_s - self._looked_s - 2 * self._times.look_every_s)
        self._heard_s = min(now_s, self._heard_s + absent_s)
        self._looked_s = now_s

    @property
    def is_dead(self) -> bool:
        """Whether the peer has been silent for too long."""
        return self._clock() - self._heard_s > self._times.dead_after_s

    @property
    def wants_ping(self) -> bool:
        """Whether one of the two sides has nothing fresh to know the other by."""
        oldest = min(self._heard_s, self._sent_s)
        return self._clock() - oldest >= self._times.ping_after_s


class RoundTrips:
    """The last round trips and what the PONGs told."""

    def __init__(self, keep: int = 16) -> None:
        self._rtts_s: deque[float] = deque(maxlen=keep)
        self.clock_offset_s: float | None = None
        self.load = Load()

    def note(self, *, rtt_s: float, cloud_clock_s: float, our_clock_s: float) -> None:
        """Take one round trip; of the clock offsets, that of the shortest trip is the best."""
        if not self._rtts_s or rtt_s <= min(self._rtts_s):
            self.clock_offset_s = cloud_clock_s - (our_clock_s - rtt_s / 2)
        self._rtts_s.append(rtt_s)

    @property
    def rtt_s(self) -> float | None:
        return median(self._rtts_s) if self._rtts_s else None
