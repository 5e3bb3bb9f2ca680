"""`nearfar cloud serve`: a model behind the link, until a signal stops it."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import aclosing
from pathlib import Path

from backbone.errors import CheckpointError, MissingExtra
from offload.engine import Engine
from offload.link.local import admitted, open_invites, server_keys
from offload.link.server import LinkServer
from offload.pair import CLOUD_MODEL
from offload.places import places

_DRAIN_S = 10.0  # for the answers in flight, after a signal


def serve(*, model: str | None, bind: str, device: str, max_model_len: int, as_json: bool) -> None:
    """Load the model, bind the address and serve. Raises NearfarError."""
    folder = _folder(model)
    engine = _load(folder, device, max_model_len)
    asyncio.run(_serve(engine, bind, as_json=as_json))


def _folder(model: str | None) -> Path:
    if model is None:
        return CLOUD_MODEL
    named = Path(model).expanduser()
    for candidate in (named, places().models / model):
        if candidate.is_dir():
            return candidate
    raise CheckpointError(f"{model} is no folder; name a Hugging Face checkpoint folder")


def _load(folder: Path, device: str, max_model_len: int) -> Engine:
    try:
        from cloud.engine.engine import CloudEngine
        from cloud.engine.options import EngineOptions
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "torch", "cloud") from None
    return CloudEngine(folder, options=EngineOptions(device=device, max_model_len=max_model_len))


async def _serve(engine: Engine, bind: str, *, as_json: bool) -> None:
    keys = places().keys
    pair = server_keys(keys)
    async with aclosing(engine):
        server = LinkServer(
            engine, bind, keys=pair, devices=admitted(keys), invites=open_invites(keys)
        )
        stop = asyncio.Event()
        for each in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(each, stop.set)
        async with aclosing(server):
            await server.start()
            _announce(engine, server.endpoint, pair.public, as_json=as_json)
            await stop.wait()
            await server.drain(_DRAIN_S)


def _announce(engine: Engine, endpoint: str, public_key: str, *, as_json: bool) -> None:
    card = engine.card()
    if as_json:
        told = {"endpoint": endpoint, "server_key": public_key, "model": card.name}
        print(json.dumps(told), flush=True)
        return
    print(f"{card.name} ({card.num_parameters / 1e6:.1f}M parameters, {card.quantization})")
    print(f"listening on {endpoint}, server key {public_key}")
    print(f"on this machine:  NEARFAR_CLOUD_URL={endpoint} nearfar ask ...")
    print("for another:      nearfar link invite NAME tcp://THIS_HOST:PORT")
    print("stop with Ctrl-C", flush=True)
