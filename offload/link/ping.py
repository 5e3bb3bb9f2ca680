"""`nearfar link ping`: reach the cloud that is set up, and say what stands there."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import msgspec

from offload.errors import SettingsError
from offload.link.client import CloudLink
from offload.link.local import device_keys, server_key
from offload.messages import ModelCard
from offload.places import places
from offload.settings import load


def ping(*, as_json: bool) -> None:
    """Print the cloud's model and the round trip. Raises LinkError, SettingsError."""
    here = places()
    settings = load(here.config_file).cloud
    if not settings.url:
        raise SettingsError(
            "no cloud is set up; start one with `nearfar cloud serve` and set cloud.url, "
            "or NEARFAR_CLOUD_URL=tcp://127.0.0.1:7070"
        )
    link = CloudLink(
        settings.url,
        server_key=server_key(settings.url, settings.server_key, here.keys),
        device_keys=device_keys(here.keys),
        connect_timeout_s=settings.connect_timeout_s,
    )
    card, rtt_s = asyncio.run(_reach(link))
    if as_json:
        print(json.dumps({"url": settings.url, "rtt_s": rtt_s, "card": msgspec.to_builtins(card)}))
        return
    size = f"{card.num_parameters / 1e6:.1f}M parameters, {card.quantization}"
    trip = "" if rtt_s is None else f", {rtt_s * 1e3:.1f} ms away"
    print(f"{settings.url}: {card.name} ({size}){trip}")


async def _reach(link: CloudLink) -> tuple[ModelCard, float | None]:
    async with aclosing(link):
        card = await link.connect()
        return card, link.health().rtt_s
