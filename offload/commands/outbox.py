"""Command `nearfar policy outbox`: list, forget, or ask again what waits for the cloud."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import msgspec

from backbone.terminal_text import echo, echo_json
from offload.config.places import places
from offload.config.settings_reading import load
from offload.egress.outbox import Outbox, OutboxEntry, UpgradedAnswer
from offload.egress.permission import ConsentForAll, EgressContext
from offload.errors import RequestError, SettingsError
from offload.hybrid.cloud_factory import open_cloud, open_door, open_ledger
from offload.messages import Request


def list_waiting(*, as_json: bool) -> None:
    """Print what waits, the oldest first."""
    pending = Outbox(places().outbox).pending()
    if as_json:
        echo_json(msgspec.json.encode(pending).decode())
        return
    for each in pending:
        moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.queued_at))
        echo(f"{each.id}  {moment}  {_first_line(each.request)}")
    echo(f"{_questions(len(pending))} waiting for the far model")


def forget(name: str, *, as_json: bool) -> None:
    """Forget one question by its id, or all. Raises RequestError where none has this id."""
    count = Outbox(places().outbox).forget(name)
    if not count and name != "all":
        raise RequestError(f"no question '{name}' waits; `nearfar policy outbox` lists their ids")
    echo(f'{{"forgotten":{count}}}' if as_json else f"{_questions(count)} forgotten")


def ask_again(*, as_json: bool) -> None:
    """Ask what waits and print each answer beside the first one. Raises SettingsError."""
    asyncio.run(_ask_again(as_json=as_json))


async def _ask_again(*, as_json: bool) -> None:
    here = places()
    settings, outbox = load(here.config_file), Outbox(here.outbox)
    cloud = open_cloud(settings, here)
    if cloud is None:
        raise SettingsError("no far model is set up; set cloud.url, or use `nearfar link join`")
    ledger = open_ledger(settings, here)
    consent = ConsentForAll("what waits")
    door = open_door(cloud, settings, here, ledger=ledger, consent=consent)
    try:
        async with aclosing(door):
            async for better in outbox.run(door.within(EgressContext(reason="asked_again"))):
                _show(better, as_json=as_json)
    finally:
        ledger.close()
    if as_json:
        return
    left = len(outbox.pending())
    why = f": {outbox.why_waiting or 'the far model is out of reach'}" if left else ""
    echo(f"{_questions(left)} still waiting{why}")


def _show(better: UpgradedAnswer, *, as_json: bool) -> None:
    if as_json:
        echo_json(msgspec.json.encode(better).decode())
        return
    waiting: OutboxEntry = better.waiting
    echo(f"? {_first_line(waiting.request)}")
    echo(f"near: {waiting.answer.strip()}")
    echo(f"far:  {better.answer.strip()}\n")


def _questions(count: int) -> str:
    return f"{count} question{'' if count == 1 else 's'}"


def _first_line(request: Request) -> str:
    return request.last_text().strip().splitlines()[0][:80]
