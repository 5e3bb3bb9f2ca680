"""Checking: a far model reads a finished near answer, through the door by which all text leaves."""

from __future__ import annotations

from contextlib import aclosing

from offload.egress.door import EgressEngine
from offload.egress.permission import EgressContext
from offload.messages import Alternative, Delta, Finish, PromptToken, Request, Usage
from offload.policy.serving.check import FarReading, check_request, read_answer


async def read_far(
    cloud: EgressEngine, request: Request, answer: str, *, agreed: bool
) -> tuple[FarReading, Usage]:
    """Return what the far model told of an answer to a request, and what that took.

    Raises Unsupported where it cannot, and LinkError.
    """
    tokens: list[PromptToken] = []
    words: tuple[Alternative, ...] = ()
    usage = Usage()
    door = cloud.within(EgressContext(reason="check", agreed=agreed))
    async with aclosing(door.generate(check_request(request, answer))) as items:
        async for item in items:
            if isinstance(item, Delta):
                tokens += item.prompt_tokens
                words = words or next(iter(item.alternatives), ())
            elif isinstance(item, Finish):
                usage = item.usage
    return read_answer(answer, tokens, words), usage
