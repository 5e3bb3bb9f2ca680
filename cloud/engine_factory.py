"""Which engine an operator's options mean: one model, a shelf of them, replicas, another server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backbone.errors import CheckpointError, MissingExtra
from backbone.paths import expanded
from backbone.usage_errors import as_typed
from cloud.engine_settings import read_settings
from offload.config.places import places
from offload.engine import Engine
from offload.pair import CLOUD_MODEL

if TYPE_CHECKING:
    from cloud.endpoint import EndpointOptions
    from cloud.engine.options import EngineOptions


def open_engine(options: EndpointOptions) -> Engine:
    """Return the engine that the options name. Raises NearfarError."""
    if options.upstream:
        from offload.upstream.client import Upstream

        return Upstream(options.upstream, model=options.upstream_model, for_tenants=True)
    settings = _settings(options)
    if options.shelf:
        from cloud.fleet.model_pool import ModelPool

        root = expanded(options.shelf)
        return ModelPool(
            root, lambda folder: _load(folder, options, settings), max_loaded=options.max_loaded
        )
    if options.num_replicas > 1:
        return _fleet(_folder(options.model), options, settings)
    return _load(_folder(options.model), options, settings)


def _fleet(folder: Path, options: EndpointOptions, settings: Mapping[str, Any]) -> Engine:
    from cloud.fleet.balance import policy_named
    from cloud.fleet.replica import ReplicaOptions
    from cloud.fleet.replica_placement import places_for
    from cloud.fleet.replicas import Replicas

    with as_typed():
        policy = policy_named(options.balance)
        places = places_for(
            options.num_replicas,
            weights=options.replica_weights,
            gpus=options.gpus,
            cores=options.cores,
            device=options.device,
        )

    def replica(number: int) -> ReplicaOptions:
        place = places[number % len(places)]
        # A process that sees one GPU calls it the first.
        wish = {"device": options.device, "max_model_len": options.max_model_len, **settings}
        return ReplicaOptions(
            arguments={"folder": str(folder), **wish},
            environment=place.environment(),
            cores=place.cores,
            weight=place.weight,
        )

    return Replicas(replica, num_replicas=options.num_replicas, policy=policy)


def _folder(model: str | None) -> Path:
    if model is None:
        return CLOUD_MODEL
    named = expanded(model)
    for candidate in (named, places().models / model):
        if candidate.is_dir():
            return candidate
    raise CheckpointError(f"{model} is no folder; name a Hugging Face checkpoint folder")


def _load(folder: Path, options: EndpointOptions, settings: Mapping[str, Any]) -> Engine:
    try:
        from cloud.engine.engine import CloudEngine
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "torch", "cloud") from None
    with as_typed():
        chosen = _engine_options(options, settings)
    return CloudEngine(folder, options=chosen)


def _settings(options: EndpointOptions) -> Mapping[str, Any]:
    """Return what --engine says, checked before a shelf or a replica meets it later."""
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
    from cloud.engine.options import EngineOptions

    return EngineOptions(
        device=options.device,
        max_model_len=options.max_model_len,
        tensor_parallel_size=options.tensor_parallel_size,
        **settings,
    )
