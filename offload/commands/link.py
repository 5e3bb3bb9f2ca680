"""Commands of `nearfar link`: invite, join, ping, list, allow, revoke, key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backbone.terminal_text import echo, echo_json

link_app = typer.Typer(help="The link between a device and its cloud.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


@link_app.command()
def invite(
    name: Annotated[str, typer.Argument(help="A name for the device.")],
    endpoint: Annotated[
        str, typer.Argument(help="The cloud's address as the device sees it: tcp://HOST:PORT.")
    ],
    hours: Annotated[float, typer.Option(help="How long the invite is good.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Print one line that lets one device in, on the cloud's machine."""
    from offload.commands.invite import invite as run

    run(name, endpoint, hours=hours, as_json=as_json)


@link_app.command()
def join(
    line: Annotated[str, typer.Argument(help="The line that `nearfar link invite` printed.")],
    add: Annotated[bool, typer.Option("--add", help="Keep the clouds set up before.")] = False,
    as_json: Json = False,
) -> None:
    """Use an invite: this device's cloud is then set up."""
    from offload.commands.invite import join as run

    run(line, add=add, as_json=as_json)


@link_app.command()
def ping(
    pings: Annotated[int, typer.Option(min=1, max=10_000, help="How many round trips.")] = 20,
    as_json: Json = False,
) -> None:
    """Reach every cloud that is set up: round trips, loss, throughput, clock and queue."""
    from offload.commands.ping import ping as run

    run(num_pings=pings, as_json=as_json)


@link_app.command("list")
def list_devices(as_json: Json = False) -> None:
    """List the devices that this machine, as a cloud, lets in."""
    import msgspec

    from offload.config.places import places
    from offload.link.local_keys import admitted

    devices = admitted(places().keys).all()
    if as_json:
        echo_json(msgspec.json.encode(devices).decode())
        return
    for each in devices:
        echo(f"{each.name:24} {each.public_key}")
    if not devices:
        echo("none yet; `nearfar link invite NAME tcp://HOST:PORT` lets one in")


# A key may begin with a dash, which is no option.
@link_app.command(context_settings={"ignore_unknown_options": True})
def allow(
    name: Annotated[str, typer.Argument(help="A name for the device.")],
    public_key: Annotated[str, typer.Argument(help="Its public key, as `nearfar link key` says.")],
    as_json: Json = False,
) -> None:
    """Let a device in, on the cloud's machine."""
    from offload.config.places import places
    from offload.link.local_keys import admitted

    admitted(places().keys).add(name, public_key)
    _say({"allowed": name}, f"{name} may use this cloud", as_json)


@link_app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The device's name.")], as_json: Json = False
) -> None:
    """Shut a device out, on the cloud's machine."""
    from offload.config.places import places
    from offload.link.local_keys import admitted

    admitted(places().keys).remove(name)
    _say({"revoked": name}, f"{name} may no longer use this cloud", as_json)


@link_app.command()
def key(
    new_server: Annotated[
        Path | None,
        typer.Option(help="Write a new key pair for servers there, for serve.link_keys."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print this device's public key, for `nearfar link allow` on the cloud's machine."""
    from offload.config.places import places
    from offload.link.keys import write_new_pair
    from offload.link.local_keys import device_keys

    if new_server is not None:
        public = write_new_pair(new_server).public
        _say({"server_key": public, "path": str(new_server)}, public, as_json)
        return
    public = device_keys(places().keys).public
    _say({"public_key": public}, public, as_json)


def _say(document: dict[str, str], line: str, as_json: bool) -> None:
    import json

    echo(json.dumps(document) if as_json else line)
