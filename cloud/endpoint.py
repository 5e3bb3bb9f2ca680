"""The endpoint of `nearfar cloud serve`: opens an engine and serves it until a signal.

It answers devices over the link, and OpenAI clients over HTTP if asked. An engine that breaks for
good ends the process with status 1, for its supervisor to start again.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    aclosing,
    nullcontext,
)

from backbone.collector import leave_out_what_is_loaded
from backbone.event_loop import run_server
from backbone.process_limits import raise_open_files
from backbone.stop_signals import on_signals
from backbone.terminal_text import echo, echo_json, readable_bytes
from cloud.endpoint_engine import open_engine
from cloud.endpoint_options import EndpointOptions
from offload.engine import Breakable, Connectable, Engine
from offload.errors import EngineStopped
from offload.event_waiting import set_within
from offload.link.local_server import (
    DRAIN_S,
    for_another_machine,
    for_this_machine,
    open_server,
)
from offload.link.server import LinkServer

# Opens an HTTP face of an engine at an address and yields its URL; the command brings one.
OpenHttp = Callable[[Engine, str], AbstractAsyncContextManager[str]]

_POLL_S = 0.2  # between two looks whether the engine is broken
END_WITHIN_S = 25.0  # for the process to end well; systemd's unit gives it 30


def serve(options: EndpointOptions, *, open_http: OpenHttp | None = None) -> None:
    """Load the model, bind the addresses and serve. Raises NearfarError, also of what breaks."""
    raise_open_files()  # each device and each client of HTTP holds one
    run_server(_serve(open_engine(options), options, open_http))


async def _serve(engine: Engine, options: EndpointOptions, open_http: OpenHttp | None) -> None:
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        signals = (signal.SIGINT, signal.SIGTERM)
        stack.enter_context(on_signals(stop.set, *signals, within_s=END_WITHIN_S))
        await stack.enter_async_context(aclosing(engine))
        await _start(engine)
        await stack.enter_async_context(_scaled(engine, options))
        _warn_of_shared_cache(engine)
        server = await stack.enter_async_context(aclosing(open_server(engine, options.bind)))
        await server.start()
        url = None
        if options.http is not None:
            assert open_http is not None, "the command brings the HTTP face"
            url = await stack.enter_async_context(open_http(engine, options.http))
        leave_out_what_is_loaded()
        _announce(engine, server, url, options)
        broken = await until_stopped(stop, engine)
        if broken is not None:
            _exit_in_the_end(broken)
        await server.drain(DRAIN_S)
    if broken is not None:
        raise EngineStopped(broken)


async def until_stopped(stop: asyncio.Event, engine: Engine) -> str | None:
    """Wait for a signal, or for the engine to break; return why it broke."""
    while not stop.is_set():
        if isinstance(engine, Breakable) and (why := engine.broken()) is not None:
            return why
        await set_within(stop, _POLL_S)
    return None


def _exit_in_the_end(why: str) -> None:
    """End this process in a while, whatever waits for a dead one: a step cannot be interrupted."""

    def leave() -> None:
        echo(f"nearfar: {why}", err=True)
        os._exit(1)

    timer = threading.Timer(END_WITHIN_S, leave)
    timer.daemon = True
    timer.start()


async def _start(engine: Engine) -> None:
    """Connect to an engine in another process, or fail before anything is bound."""
    from cloud.fleet.model_pool import ModelPool
    from cloud.fleet.replicas import Replicas

    if isinstance(engine, Connectable):
        await engine.connect()
    elif isinstance(engine, Replicas | ModelPool):
        await engine.start()


def _scaled(engine: Engine, options: EndpointOptions) -> AbstractAsyncContextManager[None]:
    """Return a block in which the number of replicas follows the load, where it is to."""
    from cloud.fleet.autoscaler import Autoscaler
    from cloud.fleet.replicas import Replicas

    scaling = options.scaling()
    if scaling is None or not isinstance(engine, Replicas):
        return nullcontext()
    scaler = Autoscaler(
        engine, scaling, scale_by=options.scale_by, tell=lambda line: echo(line, err=True)
    )
    return scaler.running()


def _warn_of_shared_cache(engine: Engine) -> None:
    """Warn on stderr where the upstream's prompt cache is shared: answer times can leak prompts."""
    from offload.upstream.client import Upstream

    if isinstance(engine, Upstream) and engine.shares_caches:
        echo(
            f"nearfar: {engine.card().runtime} cannot keep prompt caches of its clients apart: how "
            "soon it answers may tell one asker what another has asked",
            err=True,
        )


def _announce(
    engine: Engine, server: LinkServer, url: str | None, options: EndpointOptions
) -> None:
    card, endpoint, public_key = engine.card(), server.endpoint, server.public_key
    if options.as_json:
        announced = {"endpoint": endpoint, "server_key": public_key, "model": card.name}
        echo_json(json.dumps(announced | ({"url": f"{url}/v1"} if url else {})))
        return
    size = f"{card.num_parameters / 1e6:.1f}M parameters, " if card.num_parameters else ""
    echo(f"{card.name} ({size}{card.quantization})")
    if memory := _memory_of(engine):
        echo(memory)
    if (scaling := options.scaling()) is not None:
        bounds = f"{scaling.min_replicas} to {scaling.max_replicas}"
        echo(f"replicas: {bounds}, by {options.scale_by}")
    echo(f"listening on {endpoint}, server key {public_key}")
    echo(f"on this machine:  NEARFAR_CLOUD_URL={for_this_machine(endpoint)} nearfar ask ...")
    echo(f"for another:      {for_another_machine(endpoint)}")
    if url:
        echo(f"for OpenAI clients: OPENAI_BASE_URL={url}/v1")
    echo("stop with Ctrl-C")


def _memory_of(engine: Engine) -> str:
    """Return the memory of an engine in this process, "" for one elsewhere."""
    if engine.card().runtime != "torch":
        return ""
    from cloud.engine.engine import CloudEngine

    if not isinstance(engine, CloudEngine):
        return ""
    weights, kv = readable_bytes(engine.card().size_bytes), readable_bytes(engine.kv_bytes)
    return (
        f"auto: {engine.chosen()}\nmemory: {weights} of weights, KV cache up to {kv} as it fills; "
        "--max-model-len and --engine max_num_seqs=N bound them"
    )
