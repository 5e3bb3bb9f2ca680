"""Running requests of the cloud: each runs at most once, and outlives a lost connection."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from offload.asker import asked_by
from offload.engine import Engine
from offload.errors import SettingsError
from offload.link import message_bodies
from offload.link.answer_task import AnswerTask, Key
from offload.link.failures import BUSY, GONE
from offload.link.message_bodies import Failure
from offload.link.quota import QuotaMeter
from offload.link.send_buffer import Send, SendBuffer
from offload.link.workload import Workload
from offload.messages import ForwardedRequest, Request
from offload.priority import Priority, prioritized

_LOOK_AGAIN_S = 0.1
_INTERACTIVE: Priority = "interactive"


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """Limits of what the cloud takes on at once, and how long it keeps a lost device's answers.

    `window` is how many pieces an answer may be ahead of its reader.
    """

    max_streams: int = 4096
    max_streams_per_device: int = 1024
    window: int = 256
    batch_s: float = 0.02
    resume_s: float = 10.0
    stall_s: float = 120.0  # how long a reader may hold the engine and take nothing
    max_kept_answers: int = 4096
    max_remembered_ids: int = 100_000
    max_silent_connections: int = 256  # that have said nothing yet; the oldest is closed for one

    def __post_init__(self) -> None:
        for name in (
            "max_streams",
            "max_streams_per_device",
            "window",
            "stall_s",
            "max_silent_connections",
        ):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("batch_s", "resume_s", "max_kept_answers", "max_remembered_ids"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must not be negative")


class AnswerBook:
    """All answers, running and just ended, by owner and request id."""

    def __init__(
        self,
        engine: Engine,
        limits: AnswerLimits,
        meter: QuotaMeter,
        *,
        on_gone: Callable[[Key], None] = lambda key: None,
        trusts_asker: bool = False,
    ) -> None:
        self._engine = engine
        self._limits = limits
        self._workload = Workload(meter)
        self._on_gone = on_gone
        self._trusts_asker = trusts_asker
        self.answers: dict[Key, AnswerTask] = {}
        self._running: set[Key] = set()
        self._ended: OrderedDict[Key, float] = OrderedDict()  # when to look at each again
        self.past: OrderedDict[Key, None] = OrderedDict()
        self._stopping: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def num_running(self) -> int:
        return self._workload.num_running

    def load(self) -> message_bodies.Load:
        """Return how much there is to do, as the devices are told."""
        return self._workload.load()

    @property
    def all_heard(self) -> bool:
        """Whether nothing runs and every device that is here has heard its answer's end."""
        return (
            all(
                answer.out.is_heard or answer.out.alone_since_s is not None
                for answer in self.answers.values()
            )
            and not self.num_running
        )

    def knows(self, key: Key) -> bool:
        """Whether the request was taken before, so that it must not run again."""
        return key in self.answers or key in self.past

    def why_not(self, device_key: str) -> Failure | None:
        """Say why a new request of this device cannot be taken now."""
        of_device = self._workload.running_of[device_key]
        if of_device >= self._limits.max_streams_per_device:
            return Failure(BUSY, f"this device has {of_device} requests in flight; wait for one")
        if self.num_running >= self._limits.max_streams:
            return Failure(BUSY, "the cloud has all the requests that it can take; ask later")
        return None

    def begin(self, key: Key, request: Request, send: Send) -> None:
        """Run a new request."""
        out = SendBuffer(window=self._limits.window, batch_s=self._limits.batch_s)

        def ended() -> None:
            self._running.discard(key)
            if key in self.answers:
                self._ended[key] = self._loop.time() + self._limits.resume_s

        self._running.add(key)
        answer_meter = self._workload.begin(key.owner.device_key, request)
        who, urgency = key.owner.device_key, _INTERACTIVE
        if self._trusts_asker and isinstance(request, ForwardedRequest):
            who, urgency = request.asker, request.priority
        with asked_by(who), prioritized(urgency):
            self.answers[key] = AnswerTask(self._engine, request, out, answer_meter, on_end=ended)
        out.attach(send, 0)

    def resume(self, key: Key, send: Send, received: int, until: int = 0) -> Failure | None:
        """Go on with an answer over a new connection, or say that it is gone."""
        answer = self.answers.get(key)
        if answer is None or not answer.out.attach(send, received):
            return Failure(GONE, "the cloud no longer holds this answer; ask again")
        answer.out.allow(until)
        return None

    def allow(self, key: Key, until: int) -> None:
        """Take a device's credit for one of its answers."""
        if key in self.answers:
            self.answers[key].out.allow(until)

    def cancel(self, key: Key) -> None:
        """Stop an answer and forget what it said."""
        self._ended.pop(key, None)
        answer = self.answers.pop(key, None)
        if answer is None:
            return
        self._remember(key)
        self._on_gone(key)
        answer.stop()
        if answer.is_running:
            self._stopping.add(answer.task)
            answer.task.add_done_callback(self._stopping.discard)

    def leave(self, key: Key) -> None:
        """The device of an answer is lost; keep the answer for a while."""
        answer = self.answers.get(key)
        if answer is not None:
            answer.out.detach()

    def end_unheard(self) -> None:
        """Stop the answers whose device is gone, rather than keep them for its return."""
        for key in list(self._running & self.answers.keys()):
            if self.answers[key].out.alone_since_s is not None:
                self.cancel(key)

    def sweep(self) -> None:
        """Stop and forget what no device has come back for."""
        now_s = self._loop.time()
        for key in list(self._running & self.answers.keys()):
            self._look_at_running(key, now_s)
        # Only those that are due are touched: there may be thousands that just ended.
        while self._ended:
            key, due_s = next(iter(self._ended.items()))
            too_many = len(self._ended) > self._limits.max_kept_answers
            if due_s > now_s and not too_many:
                break
            self._look_at_ended(key, now_s, forget=too_many)

    def _look_at_running(self, key: Key, now_s: float) -> None:
        answer = self.answers[key]
        alone_since_s, blocked_since_s = answer.out.alone_since_s, answer.out.blocked_since_s
        if alone_since_s is not None and now_s - alone_since_s >= self._limits.resume_s:
            self.cancel(key)
        elif blocked_since_s is not None and now_s - blocked_since_s >= self._limits.stall_s:
            answer.give_up(Failure(GONE, "the answer was not read for too long; ask again"))

    def _look_at_ended(self, key: Key, now_s: float, *, forget: bool) -> None:
        alone_since_s = self.answers[key].out.alone_since_s
        kept_s = 0.0 if alone_since_s is None else now_s - alone_since_s
        if forget or (alone_since_s is not None and kept_s >= self._limits.resume_s):
            self.cancel(key)
            return
        self._ended[key] = now_s + max(_LOOK_AGAIN_S, self._limits.resume_s - kept_s)
        self._ended.move_to_end(key)

    async def aclose(self) -> None:
        """Stop everything and wait until the engine has let go."""
        for key in list(self.answers):
            self.cancel(key)
        if self._stopping:
            await asyncio.wait(set(self._stopping))

    def _remember(self, key: Key) -> None:
        self.past[key] = None
        while len(self.past) > self._limits.max_remembered_ids:
            self.past.popitem(last=False)
