"""Local server: the link as this machine serves it, with its own keys, devices, invites, quotas."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from offload.config.places import places
from offload.config.settings_reading import load
from offload.engine import Engine
from offload.link.local_keys import admitted, open_invites, open_meter, server_keys
from offload.link.server import LinkServer

DRAIN_S = 10.0  # for the answers in flight, after a signal
_LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:")


def open_server(engine: Engine, endpoint: str) -> LinkServer:
    """Return a server of an engine that lets in this machine's devices, not yet started.

    Raises SettingsError.
    """
    here = places()
    keys, settings = here.keys, load(here.config_file)
    return LinkServer(
        engine,
        endpoint,
        keys=server_keys(keys, settings.serve.link_keys),
        devices=admitted(keys),
        invites=open_invites(keys),
        meter=open_meter(settings.quota, keys),
    )


@asynccontextmanager
async def serving(engine: Engine, endpoint: str) -> AsyncIterator[LinkServer]:
    """Serve an engine while the block lasts, and let answers in flight end behind it.

    Raises SettingsError.
    """
    server = open_server(engine, endpoint)
    await server.start()
    try:
        yield server
    finally:
        await server.drain(DRAIN_S)


def for_this_machine(endpoint: str) -> str:
    """Return where this machine reaches an endpoint: 0.0.0.0 stands for loopback too."""
    return endpoint.replace("tcp://0.0.0.0:", "tcp://127.0.0.1:")


def for_another_machine(endpoint: str) -> str:
    """Return what lets another machine in: nothing does at an address of this one alone."""
    if not endpoint.startswith("tcp://") or endpoint.startswith(_LOOPBACK):
        return "only with --bind tcp://0.0.0.0:7070"
    return f"nearfar link invite NAME tcp://THIS_HOST:{endpoint.rpartition(':')[2]}"
