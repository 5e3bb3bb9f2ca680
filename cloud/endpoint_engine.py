"""The engine of an endpoint, by its options: an upstream, a model pool, replicas or one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import CheckpointError, MissingExtra, as_typed
from backbone.files import expanded
from cloud.endpoint_options import EndpointOptions, read_settings
from offload.config.places import places
from offload.config.settings import CloudSettings
from offload.config.settings_reading import load
from offload.engine import Engine
from offload.pair import CLOUD_MODEL

if TYPE_CHECKING:
    from engine.torch.options import EngineOptions


def open_engine(options: EndpointOptions) -> Engine:
    """Return the engine of the options: an upstream, a model pool, replicas or one model.

    Raises NearfarError.
    """
    if options.upstream:
        from offload.upstream.client import Upstream

        return Upstream(options.upstream, model=options.upstream_model, for_tenants=True)
    if options.ray_app:
        from cloud.ray_engine import RayEngine

        return RayEngine(options.ray_app)
    if options.replica_at:
        return _remote_replicas(options)
    settings = _settings(options)
    if options.model_pool:
        from cloud.fleet.model_pool import ModelPool

        root = expanded(options.model_pool)
        return ModelPool(
            root, lambda folder: _load(folder, options, settings), max_loaded=options.max_loaded
        )
    if options.has_replicas:
        return _replicas(_model(options.model), options, settings)
    return _load(_model(options.model), options, settings)


def _replicas(folder: Path, options: EndpointOptions, settings: Mapping[str, Any]) -> Engine:
    from cloud.fleet.balance import policy_named
    from cloud.fleet.replica import ReplicaOptions
    from cloud.fleet.replica_placement import placements_for
    from cloud.fleet.replicas import Replicas

    with as_typed():
        policy = policy_named(options.balance)
        placements = placements_for(
            options.most_replicas,
            weights=options.replica_weights,
            gpus=options.gpus,
            cores=options.cores,
            device=options.device,
        )

    def replica(number: int) -> ReplicaOptions:
        placement = placements[number % len(placements)]
        # A process that sees one GPU calls it the first.
        arguments = {"device": options.device, "max_model_len": options.max_model_len}
        arguments |= {"tokenizer": options.tokenizer, **settings}
        return ReplicaOptions(
            arguments={"folder": str(folder), **arguments},
            environment=placement.environment(),
            cores=placement.cores,
            weight=placement.weight,
        )

    first = options.min_replicas if options.max_replicas else options.num_replicas
    return Replicas(replica, num_replicas=first, policy=policy)


def _remote_replicas(options: EndpointOptions) -> Engine:
    from cloud.fleet.balance import policy_named
    from cloud.fleet.replica import ReplicaOptions
    from cloud.fleet.replica_placement import placements_for
    from cloud.fleet.replicas import Replicas

    count = len(options.replica_at)
    with as_typed():
        policy = policy_named(options.balance)
        weights = [each.weight for each in placements_for(count, weights=options.replica_weights)]
        reached = [_reaching(each) for each in options.replica_at]

    def replica(number: int) -> ReplicaOptions:
        return ReplicaOptions(reach=reached[number], weight=weights[number])

    return Replicas(replica, num_replicas=count, policy=policy)


def _reaching(place: str) -> Callable[[], Engine]:
    """Return what opens the engine at ADDRESS or ADDRESS,SERVER_KEY. Raises SettingsError."""
    here = places()
    settings = load(here.config_file)
    address, _, key = (part.strip() for part in place.partition(","))
    far = CloudSettings(url=address, server_key=key or dict(settings.cloud.clouds).get(address, ""))
    if far.is_upstream:
        from offload.upstream.client import Upstream

        return lambda: Upstream(address, for_tenants=True)
    from offload.link.pool import open_links

    open_links(far, here.keys)  # a server without a known key is refused at the start
    return lambda: open_links(far, here.keys)[0]


def _model(model: str | None) -> Path:
    """Return the folder or GGUF file of a name or path."""
    if model is None:
        return CLOUD_MODEL
    named = expanded(model)
    for candidate in (named, places().models / model, places().models / f"{model}.gguf"):
        if candidate.is_dir() or (candidate.is_file() and candidate.suffix == ".gguf"):
            return candidate
    raise CheckpointError(
        f"{model} is no folder and no .gguf file; name a Hugging Face checkpoint folder or a GGUF"
    )


def _load(folder: Path, options: EndpointOptions, settings: Mapping[str, Any]) -> Engine:
    try:
        from cloud.engine.engine import CloudEngine
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "torch", "cloud") from None
    with as_typed():
        chosen = _engine_options(options, settings)
    return CloudEngine(folder, options=chosen)


def _settings(options: EndpointOptions) -> Mapping[str, Any]:
    """Return what --engine says, checked before a model pool or a replica meets it later."""
    if not options.engine:
        return {}  # what keeps replicas needs no torch of its own
    try:
        with as_typed():
            settings = read_settings(options.engine)
            _engine_options(options, settings)
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "torch", "cloud") from None
    return settings


def _engine_options(options: EndpointOptions, settings: Mapping[str, Any]) -> EngineOptions:
    from engine.torch.options import EngineOptions

    return EngineOptions(
        device=options.device,
        max_model_len=options.max_model_len,
        tensor_parallel_size=options.tensor_parallel_size,
        tokenizer=options.tokenizer,
        profile=options.profile,
        **settings,
    )
