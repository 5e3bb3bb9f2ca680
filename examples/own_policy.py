"""A policy of your own: near for short questions, far for long ones, never far at night."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator

from edge.near.factory import open_edge
from offload.config.places import places
from offload.config.settings_reading import load
from offload.engine import Engine
from offload.hybrid.cloud_factory import open_cloud, open_door, open_ledger
from offload.messages import Delta, Finish, Message, ModelCard, Request


class ByLength:
    """An Engine over two others; anything with these three methods can stand in for the hybrid."""

    def __init__(self, edge: Engine, cloud: Engine | None, *, longest: int) -> None:
        self._edge, self._cloud, self._longest = edge, cloud, longest

    def card(self) -> ModelCard:
        return self._edge.card()

    async def generate(self, request: Request) -> AsyncIterator[Delta | Finish]:
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
    here, settings = places(), load(places().config_file)
    ledger, link = open_ledger(settings, here), open_cloud(settings, here)
    # The door asks the settings for each text, replaces what is private, and writes the ledger.
    far = link and open_door(link, settings, here, ledger=ledger, consent=None)
    engine = ByLength(open_edge(settings, here), far, longest=60)
    for question in ("What is 8 + 9?", "Sort these numbers: 55, 93, 4, 68, 12, 77"):
        request = Request(messages=(Message(role="user", content=question),))
        async for item in engine.generate(request):
            if isinstance(item, Delta):
                print(item.text, end="")
            elif item.route is not None:
                print(f"   ({item.route.served_by})")
    await engine.aclose()
    ledger.close()


if __name__ == "__main__":
    asyncio.run(main())
