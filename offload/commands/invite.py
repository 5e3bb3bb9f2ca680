"""Commands `nearfar link invite` on the cloud's machine and `nearfar link join` on the device's."""

from __future__ import annotations

import asyncio
import io
import json
import sys

from backbone.terminal_text import echo, echo_json
from offload.config.places import places
from offload.config.settings_reading import load
from offload.config.settings_sources import change_settings
from offload.errors import SettingsError
from offload.link.invites import accept_invite, make_invite
from offload.link.local_keys import device_keys, open_invites, server_keys


def invite(name: str, endpoint: str, *, hours: float, as_json: bool) -> None:
    """Print the line that lets one device in, and its QR code on a terminal."""
    keys, config = places().keys, places().config_file
    line = make_invite(
        endpoint,
        server_keys(keys, load(config).serve.link_keys).public,
        open_invites(keys),
        name=name,
        lifetime_s=hours * 3600,
    )
    if as_json:
        echo_json(json.dumps({"invite": line, "name": name, "expires_in_s": hours * 3600}))
        return
    echo(line)
    if sys.stdout.isatty():
        echo(_qr(line))
    echo(f"works once, for {hours:g} h; on the device:  nearfar link join LINE", err=True)


def _qr(text: str) -> str:
    import segno

    out = io.StringIO()
    segno.make(text, error="l").terminal(out=out, compact=True)
    return out.getvalue()


def join(line: str, *, add: bool, as_json: bool) -> None:
    """Make this device known to the cloud that invited it, and set it up as this one's cloud.

    With `add`, the clouds that are set up already are kept.
    """
    here = places()
    accepted = asyncio.run(accept_invite(line, device_keys(here.keys)))
    clouds = {accepted.endpoint: accepted.server_key}
    if add:
        clouds = dict(load(here.config_file, {}).cloud.clouds) | clouds
    found = {"url": ",".join(clouds), "server_key": ",".join(clouds.values())}
    try:
        change_settings(here.config_file, "cloud", found)
    except SettingsError as error:
        raise SettingsError(
            f"this device is known to the cloud now, but {error}; then set "
            f"cloud.url = {found['url']!r} and cloud.server_key = {found['server_key']!r}"
        ) from None
    if as_json:
        echo_json(json.dumps(found | {"name": accepted.name}))
        return
    echo(f"{accepted.endpoint} knows this device as {accepted.name}; try: nearfar link ping")
