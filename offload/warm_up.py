"""Warm-up: one question to an engine before anybody's, whose first asker would wait for it."""

from __future__ import annotations

from contextlib import aclosing

from offload.engine import Engine, Routing
from offload.messages import Message, Privacy, Request, Sampling


async def warm_up(engine: Engine) -> None:
    """Ask an engine for one token. Raises what its answer raises."""
    # An engine that chooses must not ask, and pay, the cloud for this.
    near = isinstance(engine, Routing)
    # Of a chat where there is a template: a raw prompt would not show that it is broken.
    chats = engine.card().chat
    request = Request(
        messages=(Message(role="user", content="Hello"),) if chats else (),
        prompt=None if chats else "Hello",
        sampling=Sampling(max_tokens=1),
        privacy=Privacy.LOCAL_ONLY if near else Privacy.CLOUD_OK,
    )
    async with aclosing(engine.generate(request)) as items:
        async for _ in items:
            pass
