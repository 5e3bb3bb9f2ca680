"""A policy of your own: near for short questions, far for long ones, never far at night."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator

from nearfar import Delta, Engine, Finish, Message, ModelCard, Request, open_far, open_near


class ByLength:
    """An Engine over two others; anything with these three methods can stand in for the hybrid."""

    def __init__(self, edge: Engine, cloud: Engine | None, *, longest: int) -> None:
        self._edge, self._cloud, self._longest = edge, cloud, longest

    def card(self) -> ModelCard:
        return self._edge.card()

    async def generate(self, request: Request) -> AsyncGenerator[Delta | Finish, None]:
        long = len(request.last_text()) > self._longest
        awake = 7 <= datetime.datetime.now().hour < 23
        far = self._cloud is not None and long and awake
        async for item in (self._cloud if far and self._cloud else self._edge).generate(request):
            yield item

    async def aclose(self) -> None:
        await self._edge.aclose()
        if self._cloud is not None:
            await self._cloud.aclose()


async def main() -> None:
    # What goes far leaves by the door: the settings are asked for each text, private values are
    # replaced, and the ledger is written. Without a cloud in the settings there is none to ask.
    engine: Engine = ByLength(open_near(), open_far(), longest=60)
    for question in ("What is 8 + 9?", "Sort these numbers: 55, 93, 4, 68, 12, 77"):
        request = Request(messages=(Message(role="user", content=question),))
        async for item in engine.generate(request):
            if isinstance(item, Delta):
                print(item.text, end="")
            elif item.route is not None:
                print(f"   ({item.route.served_by})")
    await engine.aclose()


if __name__ == "__main__":
    asyncio.run(main())
