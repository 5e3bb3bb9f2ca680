"""Clouds of this device: joined by an invite, added by an address, dropped, and tested."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec

from offload.config.places import Places
from offload.config.settings import UPSTREAM_SCHEMES, CloudSettings
from offload.config.settings_reading import load
from offload.config.settings_sources import change_settings
from offload.errors import LinkError, SettingsError
from offload.link.client import CloudLink
from offload.link.invites import Invite, accept_invite
from offload.link.link_quality import LinkMeasure, measure
from offload.link.local_keys import device_keys, server_key
from offload.link.pool import open_links
from offload.messages import ModelCard


class CloudTest(msgspec.Struct, frozen=True, kw_only=True):
    """Test of one address: a model and a measure, or an error; a server over HTTP has no measure.

    `queue_s` is how long the cloud's last answers waited for its engine.
    """

    url: str
    card: ModelCard | None = None
    measure: LinkMeasure | None = None
    queue_s: float | None = None
    num_waiting: int = 0
    error: str | None = None


async def join(line: str, here: Places, *, add: bool) -> Invite:
    """Make this device known to the cloud that invited it, and set it up as this one's cloud.

    With `add`, the clouds of the settings file are kept. Raises SettingsError and LinkError.
    """
    accepted = await accept_invite(line, device_keys(here.keys))
    found = _with(accepted.endpoint, accepted.server_key, here, add=add)
    try:
        change_settings(here.config_file, "cloud", found)
    except SettingsError as error:
        raise SettingsError(
            f"this device is known to the cloud now, but {error}; then set "
            f"cloud.url = {found['url']!r} and cloud.server_key = {found['server_key']!r}"
        ) from None
    return accepted


def add_address(
    url: str, here: Places, *, key: str = "", model: str = "", api_key: str = ""
) -> None:
    """Set up the cloud at an address: of our link beside those there are, of HTTP in their place.

    Raises SettingsError for what is no address, and for a link whose public key is not known.
    """
    if url.partition("://")[0] in UPSTREAM_SCHEMES:
        _keep(here, {"url": url, "server_key": "", "model": model, "api_key": api_key})
        return
    CloudSettings(url=url, server_key=key)  # what is none is said before its key is asked for
    server_key(url, key, here.keys)
    _keep(here, {**_with(url, key, here, add=True), "model": "", "api_key": ""})


def drop(url: str, here: Places) -> None:
    """Take a cloud out of the settings. Raises SettingsError for one that is not there."""
    clouds = dict(load(here.config_file, {}).cloud.clouds)
    if url not in clouds:
        raise SettingsError(f"{url} is no far model of the settings file; look at cloud.url")
    del clouds[url]
    _keep(here, {**_joined(clouds), "model": "", "api_key": ""})


def _with(url: str, key: str, here: Places, *, add: bool) -> dict[str, str]:
    before = load(here.config_file, {}).cloud if add else CloudSettings()
    clouds = {} if before.is_upstream else dict(before.clouds)
    return _joined(clouds | {url: key})


def _joined(clouds: Mapping[str, str]) -> dict[str, str]:
    keys = ",".join(clouds.values()) if any(clouds.values()) else ""
    return {"url": ",".join(clouds), "server_key": keys}


def _keep(here: Places, values: dict[str, str]) -> None:
    fields: dict[str, Any] = dict(values)
    said = replace(load(here.config_file, {}).cloud, **fields)  # a wrong one is not written
    change_settings(
        here.config_file, "cloud", {name: each or None for name, each in values.items()}
    )
    if load(here.config_file).cloud.url != said.url:
        raise SettingsError(
            "NEARFAR_CLOUD_URL goes before what is chosen here; start nearfar without it"
        )


async def reach_all(settings: CloudSettings, here: Places, *, num_pings: int) -> list[CloudTest]:
    """Reach every cloud of the settings. Raises SettingsError where none is set up."""
    if settings.is_upstream:
        return [await _reach_upstream(settings)]
    links = open_links(settings, here.keys)
    # One after the other, so that none disturbs the measure of another.
    return [await _reach(link, num_pings) for link in links]


async def _reach(link: CloudLink, num_pings: int) -> CloudTest:
    async with aclosing(link):
        try:
            card = await link.connect()
            measured = await measure(link, num_pings=num_pings)
        except LinkError as error:
            return CloudTest(url=link.endpoint, error=str(error))
        snapshot = link.snapshot()
        return CloudTest(
            url=link.endpoint,
            card=card,
            measure=measured,
            queue_s=snapshot.queue_s,
            num_waiting=snapshot.num_waiting,
        )


async def _reach_upstream(settings: CloudSettings) -> CloudTest:
    from offload.upstream.client import Upstream

    server = Upstream(
        settings.url,
        model=settings.model,
        api_key=settings.api_key,
        connect_timeout_s=settings.connect_timeout_s,
    )
    async with aclosing(server):
        try:
            return CloudTest(url=settings.url, card=await server.connect())
        except LinkError as error:
            return CloudTest(url=settings.url, error=str(error))
