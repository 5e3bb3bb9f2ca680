"""The clouds that are set up, as links that are not yet connected."""

from __future__ import annotations

from pathlib import Path

from offload.config.settings import CloudSettings
from offload.errors import SettingsError
from offload.link.client import CloudLink
from offload.link.local_keys import device_keys, server_key
from offload.link.pool import CloudPool


def open_links(settings: CloudSettings, keys: Path) -> list[CloudLink]:
    """Return one link for each cloud of the settings; `keys` is the folder of this machine's keys.

    Raises SettingsError where none is set up, or a cloud's key is not known.
    """
    if not settings.url:
        raise SettingsError(
            "no cloud is set up; start one with `nearfar cloud serve` and set cloud.url, "
            "or NEARFAR_CLOUD_URL=tcp://127.0.0.1:7070"
        )
    if settings.is_upstream:
        raise SettingsError(
            f"{settings.url} is an HTTP server and not a link of ours; "
            "put `nearfar cloud serve --upstream URL` in front of it for one"
        )
    return [
        CloudLink(
            url,
            server_key=server_key(url, stated_key, keys),
            device_keys=device_keys(keys),
            connect_timeout_s=settings.connect_timeout_s,
        )
        for url, stated_key in settings.clouds
    ]


def open_pool(settings: CloudSettings, keys: Path) -> CloudPool:
    """Return all clouds of the settings as one engine. Raises SettingsError as `open_links`."""
    return CloudPool(open_links(settings, keys))
