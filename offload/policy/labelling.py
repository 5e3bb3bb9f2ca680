"""Asks both models every question of a set, and can be stopped and run again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from offload.engine import Engine, Revealing
from offload.handover import closing
from offload.messages import Confidence, Delta, Finish, Message, Request, Sampling
from offload.policy.flags import flags
from offload.policy.grading import Grader
from offload.policy.labelled import Labelled, Labels, key_of, packed
from offload.policy.probe import MAX_TOKENS
from offload.policy.questions import Question

AT_ONCE = 8  # questions; the cloud answers them side by side


async def label(
    questions: Sequence[Question],
    edge: Engine,
    cloud: Engine,
    labels: Labels,
    *,
    grader: Grader,
    max_tokens: int = 256,
    told: Callable[[int], None] = lambda _: None,
) -> None:
    """Ask what has not been asked yet and keep each answer; `told` hears how many are done.

    Raises LinkError where the cloud fails: what was answered before is kept.
    """
    waiting = list({key_of(each): each for each in questions}.values())
    waiting = [each for each in waiting if key_of(each) not in labels.found]
    told(len(questions) - len(waiting))
    for start in range(0, len(waiting), AT_ONCE):
        batch = waiting[start : start + AT_ONCE]
        far = asyncio.gather(*(_far(cloud, each, grader, max_tokens) for each in batch))
        try:
            near = [await _near(edge, each, grader, max_tokens) for each in batch]
            right = await far
        except BaseException:
            far.cancel()
            await asyncio.gather(far, return_exceptions=True)
            raise
        rows = [row(far_right) for row, far_right in zip(near, right, strict=True)]
        labels.add(rows)
        told(len(questions) - len(waiting) + start + len(batch))


async def _far(cloud: Engine, question: Question, grader: Grader, max_tokens: int) -> bool:
    text, _ = await _read(cloud, _request(question, max_tokens))
    return grader(text, question)


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
