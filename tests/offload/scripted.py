"""An engine that says what a test tells it to say, and lets the test watch."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from offload.engine import AnswerStream
from offload.messages import Confidence, Delta, Finish, ModelCard, Request, Side, Usage
from offload.reading import listener

CARD = ModelCard(
    name="scripted",
    architecture="none",
    runtime="script",
    num_parameters=0,
    quantization="none",
    size_bytes=0,
    max_model_len=4096,
    chat=True,
)


def delta(text: str, index: int = 0) -> Delta:
    """Return a Delta of one token, with numbers that 32-bit floats hold exactly."""
    confidence = (Confidence(-0.5, 0.25, 1.5),)
    return Delta(text=text, index=index, token_ids=(1000 + index,), confidence=confidence)


class ScriptedEngine:
    """Answers every request with the same deltas, or with what `script` makes of the request.

    `hold` is awaited before the delta number `hold_before`; `error` is raised before the delta
    number `error_before`, or behind the last; `pause_s` goes before each, and 0 lets others run;
    without `finish` the answer just stops. `reads` is told of the prompt's reading before all that.
    """

    def __init__(
        self,
        deltas: Sequence[str | Delta] = ("one", " two", " three"),
        *,
        script: Callable[[Request], Sequence[str | Delta]] | None = None,
        hold: asyncio.Event | None = None,
        hold_before: int = 1,
        error: Exception | None = None,
        error_before: int = 0,
        pause_s: float | None = None,
        reads: Sequence[tuple[int, int] | tuple[int, int, Side]] = (),
        finish: Finish | None = Finish(reason="stop", usage=Usage(completion_tokens=3)),  # noqa: B008
    ) -> None:
        self._script = script or (lambda request: deltas)
        self.hold, self._hold_before = hold, hold_before
        self.error, self.error_before = error, error_before
        self._pause_s = pause_s
        self._finish = finish
        self._reads = reads
        self.num_said: Counter[str] = Counter()
        self.requests: list[Request] = []
        self.running: set[str] = set()
        self.cancelled: list[str] = []
        self.changed = asyncio.Condition()

    def card(self) -> ModelCard:
        return CARD

    async def generate(self, request: Request) -> AnswerStream:
        self.requests.append(request)
        self.running.add(request.id)
        ended = False
        try:
            await self._tell()
            if (progress := listener()) is not None:
                for each in self._reads:
                    progress(*each)
                await asyncio.sleep(0)
            index = -1
            for index, said in enumerate(self._script(request)):
                if self.error is not None and index == self.error_before:
                    raise self.error
                if self.hold is not None and index == self._hold_before:
                    await self.hold.wait()
                if self._pause_s is not None:
                    await asyncio.sleep(self._pause_s)
                self.num_said[request.id] += 1
                await self._tell()
                yield said if isinstance(said, Delta) else delta(said, index)
            if self.error is not None and index < self.error_before:
                raise self.error
            ended = True
            if self._finish is not None:
                yield self._finish
        except Exception:
            ended = True
            raise
        finally:
            self.running.discard(request.id)
            if not ended:
                self.cancelled.append(request.id)
            self._soon = asyncio.ensure_future(self._tell())

    async def aclose(self) -> None:
        pass

    async def until(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait until something becomes true of the requests seen."""
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(holds), timeout_s)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()
