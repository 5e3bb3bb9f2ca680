"""Commands `nearfar link invite` on the cloud's machine and `nearfar link join` on the device's."""

from __future__ import annotations

import asyncio
import io
import json
import sys

from backbone.terminal_text import echo, echo_json
from offload.config.places import places
from offload.config.settings_reading import load
from offload.hybrid import clouds
from offload.link.invites import make_invite
from offload.link.local_keys import open_invites, server_keys


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
    """Use an invite, and say by which name the cloud knows this device."""
    here = places()
    accepted = asyncio.run(clouds.join(line, here, add=add))
    if as_json:
        kept = load(here.config_file, {}).cloud
        found = {"url": kept.url, "server_key": kept.server_key}
        echo_json(json.dumps(found | {"name": accepted.name}))
        return
    echo(f"{accepted.endpoint} knows this device as {accepted.name}; try: nearfar link ping")
