"""Private requests under faults, and a search for their words wherever they might have got out.

The link runs without encryption, so that what a socket carries can be read. Everything that a
program leaves behind is searched: bytes on the wire, log records, exceptions, files.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import random
import string
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from backbone.errors import NearfarError
from offload.egress.door import Door, EgressEngine
from offload.egress.ledger.ledger import Ledger
from offload.egress.outbox import Outbox
from offload.egress.permission import Allowed
from offload.egress.privacy.findings import RULES, Rules
from offload.engine import AnswerStream
from offload.errors import ContextLengthError, EngineStopped
from offload.hybrid.hybrid import Hybrid, HybridOptions
from offload.link.client import CloudLink
from offload.link.health import HeartbeatTimes
from offload.messages import Confidence, Delta, Finish, Message, ModelCard, Privacy, Request
from tests.offload.chaos import Chaos
from tests.offload.links import serving
from tests.offload.scripted import CARD, ScriptedEngine

_ALLOWED = Rules(**dict.fromkeys(RULES, "allow"))
FAULTS = ("cut", "delay", "stall", "blackhole", "half_open", "refuse", "reorder", "corrupt")


class Tap(Chaos):
    """A proxy without faults that keeps every byte it carries."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.heard = bytearray()

    def _spoil(self, data: bytes) -> bytes:
        self.heard += data
        return data


class WildEdge:
    """A near model that is sure or not, too small, slow or broken, as it is drawn."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def card(self) -> ModelCard:
        return CARD

    async def generate(self, request: Request) -> AnswerStream:
        fate = self._draw.random()
        if fate < 0.1:
            raise ContextLengthError(9000, 4096)
        for index in range(self._draw.randrange(1, 6)):
            if fate > 0.95:
                raise EngineStopped("the near model broke; start it again")
            sure = -0.01 if self._draw.random() < 0.5 else -4.0
            yield Delta(text=f"near{index} ", index=index, confidence=(Confidence(sure, 1.0, 0.1),))
            await asyncio.sleep(0.001 if self._draw.random() < 0.1 else 0)
        yield Finish(reason="stop")

    async def aclose(self) -> None:
        return None


@dataclass
class Findings:
    """What was done and what was found; every figure of `traces` must be 0."""

    num_private: int = 0
    num_public: int = 0
    num_public_on_the_wire: int = 0  # the control: these are found, so the search can find
    wire_bytes: int = 0
    num_files: int = 0
    num_log_records: int = 0
    num_exceptions: int = 0
    num_stopped_at_the_door: int = 0
    traces: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "faults": dict(self.faults), "ends": dict(self.ends)}


async def hunt(
    home: Path, *, num_private: int, seed: int = 0, num_at_once: int = 32, gate: bool = True
) -> Findings:
    """Ask so many private requests, and as many public ones, under faults; search for them.

    The last tenth is asked of a cloud that takes no connection: however quick the machine, some
    requests meet a fault. Without `gate` private requests are handed straight to the door, as a
    broken policy would.
    """
    draw, found = random.Random(seed), Findings()
    private_mark, public_mark = _mark(draw), _mark(draw)
    watch = _Watch()
    with watch.everything():
        async with _world(home, draw) as world:
            weather = asyncio.create_task(_weather(world.chaos, found, random.Random(seed + 1)))

            async def ask(num: int) -> None:
                requests = iter(_requests(draw, num, private_mark, public_mark, found))

                async def ask_on() -> None:
                    for request in requests:
                        await _ask(world, request, draw, found, watch, gate=gate)

                await asyncio.gather(*(ask_on() for _ in range(num_at_once)))

            await ask(num_private - num_private // 10)
            weather.cancel()
            await asyncio.gather(weather, return_exceptions=True)
            world.chaos.calm()
            world.chaos.refuse = True
            world.chaos.cut()
            found.faults["refuse"] += 1
            await ask(num_private // 10)
            found.num_stopped_at_the_door = world.door.num_refused
        wire, logged = bytes(world.tap.heard), "\n".join(watch.records).encode()
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    places = {
        "wire": wire,
        "logs": logged,
        "exceptions": "\n".join(watch.exceptions).encode(),
        "files": b"\n".join(files),
    }
    found.traces = {name: traces(private_mark, content) for name, content in places.items()}
    found.num_public_on_the_wire = traces(public_mark, wire)
    found.wire_bytes, found.num_files = len(wire), len(files)
    found.num_log_records, found.num_exceptions = len(watch.records), len(watch.exceptions)
    return found


def traces(mark: str, content: bytes) -> int:
    """Count where a mark, or either half of it, stands in plain or in a usual encoding."""
    whole = mark.encode()
    half = len(whole) // 2
    forms = {whole[:half], whole[half:], whole[::-1], mark.encode("utf-16-le")}
    forms |= {whole.hex().encode(), whole.hex().upper().encode()}
    for shift in range(3):  # base64 of a text that begins 0, 1 or 2 bytes before the mark
        coded = base64.b64encode(b"\0" * shift + whole)
        forms.add(coded[4 if shift else 0 : -4])
    return sum(content.count(form) for form in forms)


@dataclass
class _World:
    hybrids: list[Hybrid]
    door: EgressEngine
    tap: Tap
    chaos: Chaos
    outbox: Outbox


@contextlib.asynccontextmanager
async def _world(home: Path, draw: random.Random) -> AsyncIterator[_World]:
    cloud = ScriptedEngine(["far0 ", "far1 ", "far2 "], pause_s=0.0005)
    ledger = Ledger(home / "ledger.sqlite", keep_content=True)
    async with (
        serving(cloud) as server,
        Chaos(server.endpoint) as chaos,
        Tap(chaos.endpoint) as tap,
    ):
        link = CloudLink(
            tap.endpoint,
            connect_timeout_s=1.0,
            patience_s=1.0,
            times=HeartbeatTimes(ping_after_s=0.2, dead_after_s=1.0),
        )
        # Nothing is replaced on the way out: a leak must not hide behind a placeholder.
        door = EgressEngine(
            link,
            door=Door(endpoint=tap.endpoint, allowed=lambda: Allowed(rules=_ALLOWED)),
            ledger=ledger,
        )
        sides: tuple[Literal["cloud"] | None, ...] = (None, "cloud")
        ways: tuple[Literal["replace", "continue"], ...] = ("replace", "continue")
        hybrids = [
            Hybrid(
                WildEdge(draw),
                door,
                options=HybridOptions(forced=side, handover=way),
                recorder=ledger,
            )
            for side in sides
            for way in ways
        ]
        outbox = Outbox(home / "outbox" / "waiting.json", below=1.1)
        yield _World(hybrids, door, tap, chaos, outbox)
        await link.aclose()
    ledger.close()


def _requests(
    draw: random.Random, num_private: int, private: str, public: str, found: Findings
) -> Iterator[Request]:
    models = ("", "", "auto", "auto-cloud", "auto-local")
    for number in range(num_private):
        for mark, kind in ((private, Privacy.LOCAL_ONLY), (public, Privacy.CLOUD_OK)):
            # A text that the person does not allow to leave is as private as one that never may.
            if kind is Privacy.LOCAL_ONLY and number % 5 == 0:
                kind = Privacy.ASK
            text = f"{mark} is the word of request {number}: {draw.random()}"
            turns = (Message(role="user", content=f"before {text}"), *_answered(draw, text))
            found.num_private += mark == private
            found.num_public += mark == public
            deadline_s = draw.choice((None, None, 0.05, 5.0))
            model = draw.choice(models)
            yield Request(messages=turns, privacy=kind, deadline_s=deadline_s, model=model)


def _answered(draw: random.Random, text: str) -> tuple[Message, ...]:
    if draw.random() < 0.5:
        return ()
    return (Message(role="assistant", content="so"), Message(role="user", content=f"and {text}"))


async def _ask(
    world: _World,
    request: Request,
    draw: random.Random,
    found: Findings,
    watch: _Watch,
    *,
    gate: bool,
) -> None:
    private = request.privacy is not Privacy.CLOUD_OK
    engine: Any = draw.choice(world.hybrids) if gate or not private else world.door
    if not gate and request.privacy is Privacy.ASK:
        return  # the door takes consent for given: asking is the hybrid's
    text, patience = "", draw.choice((None, None, None, 1, 2))
    try:
        async with aclosing(engine.generate(request)) as stream:
            async for item in stream:
                if isinstance(item, Finish):
                    found.ends[item.route.reason if item.route else item.reason] += 1
                    world.outbox.put(request, text, item)
                else:
                    text += item.text
                    patience = None if patience is None else patience - 1
                    if patience == 0:
                        found.ends["left early"] += 1
                        return
    except NearfarError as error:
        found.ends[type(error).__name__] += 1
        watch.caught(error)


async def _weather(chaos: Chaos, found: Findings, draw: random.Random) -> None:
    while True:
        fault = draw.choice(FAULTS)
        found.faults[fault] += 1
        if fault == "cut":
            chaos.cut()
        elif fault == "delay":
            chaos.delay_s, chaos.jitter_s = 0.02, 0.02
        else:
            setattr(chaos, fault, True)
            if fault == "refuse":
                chaos.cut()
        await asyncio.sleep(draw.uniform(0.02, 0.1))
        chaos.calm()
        await asyncio.sleep(draw.uniform(0.05, 0.3))


class _Watch(logging.Handler):
    """Keeps every log record of every level, and every exception with its chain."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
        self.records: list[str] = []
        self.exceptions: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{self.format(record)} {record.args!r}")

    def caught(self, error: BaseException) -> None:
        self.exceptions.append("".join(traceback.format_exception(error)))

    @contextlib.contextmanager
    def everything(self) -> Iterator[None]:
        root, loop = logging.getLogger(), asyncio.get_running_loop()
        before = root.level
        root.setLevel(logging.NOTSET)
        root.addHandler(self)
        loop.set_exception_handler(lambda _, context: self.exceptions.append(repr(context)))
        try:
            yield
        finally:
            loop.set_exception_handler(None)
            root.removeHandler(self)
            root.setLevel(before)


def _mark(draw: random.Random) -> str:
    return "".join(draw.choices(string.ascii_letters + string.digits, k=20))
