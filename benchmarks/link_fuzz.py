"""Coverage-guided fuzzing of the frame decoder and of the whole server, with atheris.

    pip install atheris
    python -m benchmarks.link_fuzz [--inputs 100000] [--write]

Each input is fed to a server that is answering another device: as the frames of a message of a
peer that has said HELLO, and of one that has not. A crash is any exception that is none of the
link's; at the end the other device's answer must be whole and the server's memory bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq

from offload.errors import RequestError
from offload.link import message_bodies, wire
from offload.link.message_bodies import Kind
from offload.link.running_requests import AnswerLimits
from offload.link.server import LinkServer
from offload.link.wire import WireError, pack_delta, unpack_delta
from offload.messages import Delta, Finish, Message, Request, Sampling
from tests.offload.links import HELLO
from tests.offload.scripted import ScriptedEngine

_HELLO = wire.encode(HELLO)
_PING = wire.encode(message_bodies.Ping(0.0))
_VICTIM, _NUM_WORDS = b"\x00victim", 5
_SEEDS: tuple[message_bodies.AnyBody, ...] = (
    HELLO,
    Request(id="i", prompt="hello", deadline_s=0.01),
    Request(
        id="i",
        messages=(Message(role="user", content="hi"),),
        sampling=Sampling(stop=("a",), json_schema={"a": [1, {"b": None}]}),
        tools=({"name": "t"},),
    ),
    message_bodies.Cancel(),
    message_bodies.Credit(9),
    message_bodies.Resume(0, 5),
    message_bodies.Join("x" * 40),
    message_bodies.Ping(1.0),
    message_bodies.Deltas(0, (pack_delta(Delta(text="x", token_ids=(1,))),)),
    message_bodies.End(1, Finish(reason="stop")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write link_fuzz.json beside this")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _fuzz(options.child, options.inputs, options.seed)
        return
    # atheris ends the process it runs in, so that it runs in one of its own.
    with tempfile.TemporaryDirectory() as folder:
        own = ["--child", folder, "--inputs", str(options.inputs), "--seed", str(options.seed)]
        command = [sys.executable, "-m", "benchmarks.link_fuzz", *own]
        done = subprocess.run(command, check=False)
        told = Path(folder) / "told.json"
        if done.returncode or not told.exists():
            raise SystemExit(f"the fuzzing ended with {done.returncode}: see what it said above")
        result = json.loads(told.read_text())
    print(json.dumps(result, indent=2))
    if options.write:
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


class House:
    """A server on a real socket with a victim in mid-answer, and a loop that is run in steps."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.num_inputs = 0
        self.crashes: list[str] = []
        self.loop.set_exception_handler(self._note)
        self.loop.run_until_complete(self._open())

    async def _open(self) -> None:
        self._hold = asyncio.Event()
        words = [f"{n} " for n in range(_NUM_WORDS)]
        engine = ScriptedEngine(script=lambda r: words if r.id == "victim" else ["a"])
        engine.hold = self._hold
        limits = AnswerLimits(resume_s=0.01, max_remembered_ids=50, max_kept_answers=50)
        self.server = LinkServer(engine, limits=limits)
        await self.server.start()
        self.heard: list[wire.Envelope] = []
        self.server.handler._send_frames = self._hear
        self.feed(_VICTIM, _HELLO)
        self.feed(_VICTIM, wire.encode(Request(id="victim", prompt="x"), "victim"))

    def _hear(self, frames: list[bytes]) -> bool:
        if frames[0] == _VICTIM:
            self.heard.append(wire.open_envelope(frames[1]))
        return True

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.crashes.append(str(context.get("exception") or context["message"]))

    def feed(self, identity: bytes, *frames: bytes) -> None:
        self.server.receive([zmq.Frame(frame) for frame in (identity, *frames)])

    def one(self, data: bytes) -> None:
        """Try one input: its first byte says how many frames it is, and by whom it is said."""
        self.loop.run_until_complete(self._one(data))
        if self.crashes:
            raise AssertionError(self.crashes[0])

    async def _one(self, data: bytes) -> None:
        self.num_inputs += 1
        how, rest = (data[0], data[1:]) if data else (0, b"")
        frames = [rest] if how & 7 else [rest] * (how >> 3)
        _decode(rest)
        known = how & 1
        if known:
            self.feed(b"\x00known", _HELLO)
        self.feed(b"\x00known" if known else b"\x00strange", *frames)
        if self.num_inputs % 50 == 0:
            self.feed(_VICTIM, _PING)  # it is still there
            await asyncio.sleep(0)
        if self.num_inputs % 1000 == 0:
            self.server.handler.sweep()

    def account(self) -> dict[str, Any]:
        """Let the victim hear the end, and tell what became of everything."""
        said = self.loop.run_until_complete(self._finish())
        answers = self.server.handler.answers
        assert said == "".join(f"{n} " for n in range(_NUM_WORDS)), "another's answer was harmed"
        assert len(answers.past) <= 50 and len(answers.answers) < 200, "something is kept"
        return {
            "inputs": self.num_inputs,
            "crashes": 0,
            "refused": self.server.num_bad_messages,
            "victim_whole": True,
        }

    async def _finish(self) -> str:
        self._hold.set()
        for _ in range(500):
            self.feed(_VICTIM, _PING)
            if any(envelope.kind is Kind.FINISH for envelope in self.heard):
                break
            await asyncio.sleep(0.01)
        self.server.handler.sweep()
        said = (wire.open_body(each) for each in self.heard if each.kind is Kind.DELTAS)
        return "".join(
            unpack_delta(item).text
            for body in said
            if isinstance(body, message_bodies.Deltas)
            for item in body.items
        )


def _decode(message: bytes) -> None:
    """What the device does with what a cloud says: refuse it or read it, and nothing else."""
    try:
        body = wire.open_body(wire.open_envelope(message))
        if isinstance(body, message_bodies.Deltas):
            for item in body.items:
                unpack_delta(item)
        wire.encode(body)
    except (WireError, RequestError):
        pass


def _fuzz(folder: Path, num_inputs: int, seed: int) -> None:
    import atheris

    for module in (
        "offload.link.wire",
        "offload.link.message_handler",
        "offload.link.running_requests",
    ):
        for name, value in list(vars(sys.modules[module]).items()):
            if callable(value) and getattr(value, "__module__", "") == module:
                _instrument(atheris, sys.modules[module], name, value)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, body in enumerate(_SEEDS):
        (corpus / f"{number}").write_bytes(b"\x01" + wire.encode(body, "i"))
    house, began = House(), time.monotonic()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def one(data: bytes) -> None:
        house.one(data)
        if house.num_inputs == num_inputs:
            grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
            told = house.account() | {
                "seconds": round(time.monotonic() - began, 1),
                "memory_grown_mib": round(grown_kib / 1024, 1),
                "seed": seed,
                "machine": platform.platform(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "msgspec": msgspec.__version__,
            }
            (folder / "told.json").write_text(json.dumps(told))

    flags = [f"-runs={num_inputs + 1}", f"-seed={seed}", "-max_len=4096", "-len_control=0"]
    flags.append(f"-artifact_prefix={folder}/")
    atheris.Setup(["link_fuzz", *flags, str(corpus)], one)
    atheris.Fuzz()


def _instrument(atheris: Any, module: Any, name: str, value: Any) -> None:
    if isinstance(value, type):
        for method, function in list(vars(value).items()):
            if type(function).__name__ == "function":
                setattr(value, method, atheris.instrument_func(function))
    else:
        setattr(module, name, atheris.instrument_func(value))


if __name__ == "__main__":
    main()
