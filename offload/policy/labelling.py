"""Asks both models every question of a set, and can be stopped and run again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any

from offload.engine import Engine, Revealing
from offload.errors import KeyRefused, LinkError, Overloaded, Withheld
from offload.handover import closing
from offload.link.backoff import Backoff
from offload.messages import Confidence, Delta, Finish, Message, Request, Sampling
from offload.policy.flags import flags
from offload.policy.grading import Grader
from offload.policy.labelled import Labelled, Labels, key_of, packed
from offload.policy.probe import MAX_TOKENS
from offload.policy.questions import Question

AT_ONCE = 8  # questions; the cloud answers them side by side
ATTEMPTS = 4  # at one question, before it is left for another run
_WAITS = Backoff(first_s=1.0, most_s=20.0)

Pause = Callable[[float], Awaitable[None]]


async def label(
    questions: Sequence[Question],
    edge: Engine,
    cloud: Engine,
    labels: Labels,
    *,
    grader: Grader,
    max_tokens: int = 256,
    told: Callable[[int], None] = lambda _: None,
    pause: Pause = asyncio.sleep,
) -> int:
    """Ask what has not been asked yet and keep each answer; `told` hears how many are done.

    A question at which the cloud fails is asked again after a pause, and skipped where it goes on
    failing; returns how many were. Raises LinkError where the cloud fails at everything it is
    asked side by side, or does not know the key: what was answered before is kept.
    """
    num_skipped = 0
    waiting = list({key_of(each): each for each in questions}.values())
    waiting = [each for each in waiting if key_of(each) not in labels.found]
    told(len(questions) - len(waiting))
    for start in range(0, len(waiting), AT_ONCE):
        batch = waiting[start : start + AT_ONCE]
        far = asyncio.gather(*(_far(cloud, each, grader, max_tokens, pause) for each in batch))
        try:
            near = [await _near(edge, each, grader, max_tokens) for each in batch]
            right = await far
        except BaseException:
            far.cancel()
            await asyncio.gather(far, return_exceptions=True)
            raise
        pairs = list(zip(near, right, strict=True))
        labels.add([row(far) for row, far in pairs if not isinstance(far, LinkError)])
        failures = [far for far in right if isinstance(far, LinkError)]
        num_skipped += len(failures)
        if len(failures) == len(batch) and not all(isinstance(e, Withheld) for e in failures):
            raise failures[-1]  # the cloud is gone
        told(len(questions) - len(waiting) + start + len(batch) - num_skipped)
    return num_skipped


async def _far(
    cloud: Engine, question: Question, grader: Grader, max_tokens: int, pause: Pause
) -> bool | LinkError:
    """Return whether the far answer is right, or why there is none."""
    for wait_s in itertools.islice(_WAITS, ATTEMPTS):
        try:
            text, _ = await _read(cloud, _request(question, max_tokens))
            return grader(text, question)
        except KeyRefused:
            raise
        except Withheld as error:
            return error  # it would be withheld again
        except LinkError as error:
            failure, busy_s = error, error.retry_after_s if isinstance(error, Overloaded) else 0.0
        await pause(max(wait_s, busy_s))
    return failure


async def _near(
    edge: Engine, question: Question, grader: Grader, max_tokens: int
) -> Callable[[bool], Labelled]:
    """Return the near half of a row, waiting for whether the far answer is right."""
    request, states = _request(question, max_tokens), list[Any]()
    with ExitStack() as block:
        if isinstance(edge, Revealing):
            block.enter_context(edge.watch(request.id, lambda _, state: states.append(state)))
        text, confidence = await _read(edge, request)
    hidden_size, kept = packed(states[-MAX_TOKENS:])

    def whole(far_right: bool) -> Labelled:
        return Labelled(
            key=key_of(question),
            near_right=grader(text, question),
            far_right=far_right,
            confidence=confidence,
            flags=flags(text),
            hidden_size=hidden_size,
            states=kept,
        )

    return whole


def _request(question: Question, max_tokens: int) -> Request:
    message = Message(role="user", content=question.question)
    return Request(messages=(message,), sampling=Sampling(max_tokens=max_tokens))


async def _read(engine: Engine, request: Request) -> tuple[str, tuple[Confidence, ...]]:
    text, confidence = "", list[Confidence]()
    async with closing(engine.generate(request)) as stream:
        async for item in stream:
            if isinstance(item, Delta):
                text = item.text if item.replaces else text + item.text
                confidence += item.confidence
            elif isinstance(item, Finish) and item.reason == "error":
                # An answer that broke off is a wrong one; it tells how often that happens.
                return "", tuple(confidence)
    return text, tuple(confidence)
