"""The plain conversation at a terminal: one line in, one answer out, Ctrl-C stops an answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from backbone.errors import NearfarError
from edge.desk.terminal import Reader, document, faint, why
from offload.engine import Engine
from offload.messages import Message, Privacy, Request, Sampling

HELP = "/new begins anew · /why tells who answered · /quit leaves · Ctrl-C stops an answer"


class Chat:
    """A conversation kept in memory, and the loop that carries it on."""

    def __init__(
        self,
        engine: Engine,
        *,
        sampling: Sampling,
        privacy: Privacy,
        system: str | None,
        as_json: bool = False,
    ) -> None:
        self._engine = engine
        self._sampling = sampling
        self._privacy = privacy
        self._as_json = as_json
        self._opening = [Message(role="system", content=system)] if system else []
        self._messages = list(self._opening)
        self._last = "nothing has been answered yet"

    async def run(self, ask: Callable[[], str]) -> None:
        """Carry the conversation on until the input ends or a person leaves."""
        while True:
            try:
                line = await asyncio.to_thread(ask)
            except (EOFError, KeyboardInterrupt):
                return
            if line.strip() in ("/quit", "/exit"):
                return
            if not self._command(line.strip()) and line.strip():
                await self._turn(line)

    def _command(self, line: str) -> bool:
        if not line.startswith("/"):
            return False
        if line == "/new":
            self._messages = list(self._opening)
            say("a new conversation")
        elif line == "/why":
            say(self._last)
        else:
            say(HELP)
        return True

    async def _turn(self, text: str) -> None:
        question = Message(role="user", content=text)
        request = Request(
            messages=(*self._messages, question), sampling=self._sampling, privacy=self._privacy
        )
        reader = Reader(quiet=self._as_json)
        job = asyncio.ensure_future(reader.read(self._engine.generate(request)))
        try:
            with _interrupt(job.cancel):
                finish = await job
        except asyncio.CancelledError:
            say("stopped")
            self._last = "you stopped the answer"
        except NearfarError as error:
            say(str(error))
            return
        else:
            self._last = why(finish)
            if self._as_json:
                print(json.dumps(document(reader.text, finish), ensure_ascii=False), flush=True)
            if finish.route is not None and finish.route.failure:
                say(f"the cloud could not answer: {finish.route.failure}")
            if finish.dropped_tokens:
                say(f"{finish.dropped_tokens} tokens of the oldest text have left the window")
        self._messages += [question, Message(role="assistant", content=reader.text)]


def say(text: str) -> None:
    """Write a remark that is not part of the answer."""
    print(faint(text) if sys.stderr.isatty() else text, file=sys.stderr)


@contextlib.contextmanager
def _interrupt(stop: Callable[[], Any]) -> Iterator[None]:
    """Let Ctrl-C call `stop` while the block runs."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, stop)
    except (NotImplementedError, RuntimeError):  # Windows, or not in the main thread
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
