"""`nearfar cloud serve`: an engine behind the link, and over HTTP if asked, until a signal.

An engine that breaks for good ends the process with status 1, for whoever keeps it to start again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, suppress
from dataclasses import dataclass

from backbone.byte_sizes import readable
from backbone.open_files import raise_open_files
from backbone.stop_signals import on_signals
from backbone.terminal_text import echo, echo_json
from cloud.engine_factory import open_engine
from offload.config.places import places
from offload.config.settings_reading import load
from offload.engine import Breaking, Engine
from offload.errors import EngineStopped, SettingsError
from offload.link.local_keys import admitted, open_invites, open_meter, server_keys
from offload.link.server import LinkServer

# Opens an HTTP face of an engine at an address and yields its URL; the command brings one.
OpenHttp = Callable[[Engine, str], AbstractAsyncContextManager[str]]

_LOOPBACK = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:")
_DRAIN_S = 10.0  # for the answers in flight, after a signal
_LOOK_S = 0.2  # between two looks whether the engine is broken
_INSIST_S = 25.0  # for the process to end well; systemd's unit gives it 30


@dataclass(frozen=True, kw_only=True)
class EndpointOptions:
    """What an operator says of one endpoint; `http` is HOST:PORT, `upstream` an OpenAI base URL."""

    model: str | None = None
    bind: str = "tcp://127.0.0.1:7070"
    device: str = "auto"
    max_model_len: int = 0
    http: str | None = None
    upstream: str | None = None
    upstream_model: str = ""
    shelf: str | None = None
    max_loaded: int = 1
    num_replicas: int = 1
    tensor_parallel_size: int = 1
    balance: str = "prefix-aware"
    replica_weights: str = ""
    gpus: str = ""
    cores: str = ""
    engine: tuple[str, ...] = ()  # EngineOptions' fields as NAME=VALUE
    as_json: bool = False

    def __post_init__(self) -> None:
        if self.upstream and (self.model or self.num_replicas > 1):
            raise SettingsError("--upstream is one server; leave out --model and --replicas")
        if self.shelf and (self.upstream or self.model or self.num_replicas > 1):
            raise SettingsError("--shelf names its own models; leave out the other flags for them")
        if self.tensor_parallel_size > 1 and (self.upstream or self.num_replicas > 1):
            raise SettingsError(
                "--tensor-parallel-size shares one model; leave out --upstream and --replicas"
            )
        if self.upstream and self.engine:
            raise SettingsError("--upstream has an engine of its own; leave out --engine")
        if self.max_loaded < 1:
            raise SettingsError(f"max-loaded is {self.max_loaded}; it must be 1 or more")
        if self.num_replicas == 1 and (self.replica_weights or self.gpus or self.cores):
            raise SettingsError("--replica-weights, --gpus and --cores need --replicas above 1")
        if not 1 <= self.num_replicas <= 256:
            raise SettingsError(f"replicas is {self.num_replicas}; it must be from 1 to 256")


def serve(options: EndpointOptions, *, open_http: OpenHttp | None = None) -> None:
    """Load the model, bind the addresses and serve. Raises NearfarError, also of what breaks."""
    raise_open_files()  # each device and each client of HTTP holds one
    asyncio.run(_serve(open_engine(options), options, open_http))


async def _serve(engine: Engine, options: EndpointOptions, open_http: OpenHttp | None) -> None:
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        signals = (signal.SIGINT, signal.SIGTERM)
        stack.enter_context(on_signals(stop.set, *signals, within_s=_INSIST_S))
        await stack.enter_async_context(aclosing(engine))
        await _connect(engine)
        _warn_of_sharing(engine)
        server = await stack.enter_async_context(aclosing(_link(engine, options)))
        await server.start()
        url = None
        if options.http is not None:
            assert open_http is not None, "the command brings the HTTP face"
            url = await stack.enter_async_context(open_http(engine, options.http))
        _announce(engine, server.endpoint, url, as_json=options.as_json)
        broken = await _until_over(stop, engine)
        if broken is not None:
            _insist_on_ending(broken)
        await server.drain(_DRAIN_S)
    if broken is not None:
        raise EngineStopped(broken)


async def _until_over(stop: asyncio.Event, engine: Engine) -> str | None:
    """Wait for a signal, or for the engine to break; return why it broke."""
    while not stop.is_set():
        if isinstance(engine, Breaking) and (why := engine.broken()) is not None:
            return why
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_S)
    return None


def _insist_on_ending(why: str) -> None:
    """End this process in a while, whatever waits for a dead one: a step cannot be interrupted."""

    def leave() -> None:
        echo(f"nearfar: {why}", err=True)
        os._exit(1)

    timer = threading.Timer(_INSIST_S, leave)
    timer.daemon = True
    timer.start()


async def _connect(engine: Engine) -> None:
    """Let an engine that stands elsewhere say what it is, or fail before anything is bound."""
    from cloud.fleet.model_pool import ModelPool
    from cloud.fleet.replicas import Replicas
    from offload.upstream.client import Upstream

    if isinstance(engine, Upstream):
        await engine.connect()
    elif isinstance(engine, Replicas | ModelPool):
        await engine.start()


def _warn_of_sharing(engine: Engine) -> None:
    """Say on stderr where those who ask through us could tell by time what others have asked."""
    from offload.upstream.client import Upstream

    if isinstance(engine, Upstream) and engine.shares_caches:
        echo(
            f"nearfar: {engine.card().runtime} has no word that keeps prompt caches apart: how "
            "soon it answers may tell one asker what another has asked",
            err=True,
        )


def _link(engine: Engine, options: EndpointOptions) -> LinkServer:
    here = places()
    keys = here.keys
    return LinkServer(
        engine,
        options.bind,
        keys=server_keys(keys),
        devices=admitted(keys),
        invites=open_invites(keys),
        meter=open_meter(load(here.config_file).quota, keys),
    )


def _announce(engine: Engine, endpoint: str, url: str | None, *, as_json: bool) -> None:
    card = engine.card()
    public_key = server_keys(places().keys).public
    if as_json:
        told = {"endpoint": endpoint, "server_key": public_key, "model": card.name}
        echo_json(json.dumps(told | ({"url": f"{url}/v1"} if url else {})))
        return
    size = f"{card.num_parameters / 1e6:.1f}M parameters, " if card.num_parameters else ""
    echo(f"{card.name} ({size}{card.quantization})")
    if memory := _memory_of(engine):
        echo(memory)
    echo(f"listening on {endpoint}, server key {public_key}")
    echo(f"on this machine:  NEARFAR_CLOUD_URL={_for_this(endpoint)} nearfar ask ...")
    echo(f"for another:      {_for_another(endpoint)}")
    if url:
        echo(f"for OpenAI clients: OPENAI_BASE_URL={url}/v1")
    echo("stop with Ctrl-C")


def _memory_of(engine: Engine) -> str:
    """Return what an engine of this process takes and may take, "" where that is elsewhere."""
    if engine.card().runtime != "torch":
        return ""
    from cloud.engine.engine import CloudEngine

    if not isinstance(engine, CloudEngine):
        return ""
    weights, kv = readable(engine.card().size_bytes), readable(engine.kv_bytes)
    return (
        f"memory: {weights} of weights, keys and values up to {kv} as they fill; "
        "--max-model-len and --engine max_num_seqs=N bound them"
    )


def _for_this(endpoint: str) -> str:
    """Return where this machine reaches an endpoint: 0.0.0.0 stands for loopback too."""
    return endpoint.replace("tcp://0.0.0.0:", "tcp://127.0.0.1:")


def _for_another(endpoint: str) -> str:
    """Return what lets another machine in: nothing does at an address of this one alone."""
    if not endpoint.startswith("tcp://") or endpoint.startswith(_LOOPBACK):
        return "only with --bind tcp://0.0.0.0:7070"
    return f"nearfar link invite NAME tcp://THIS_HOST:{endpoint.rpartition(':')[2]}"
