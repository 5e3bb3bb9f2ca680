"""From settings to the Engine that answers: the near model, the link, and the policy over both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.desk.models import find_gguf
from offload.engine import Engine
from offload.hybrid import Consent, Hybrid, HybridOptions
from offload.pair import EDGE_MODEL, EDGE_POLICY
from offload.places import Places
from offload.policy.stored import threshold
from offload.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a command's flags say about one run."""

    offline: bool = False
    forced: Literal["edge", "cloud"] | None = None
    consent: Consent | None = None
    serving: bool = False  # many may ask at once


NUM_SERVED = 4  # answers at once for `nearfar serve`: a step of four costs little more than one


def open_edge(settings: Settings, here: Places, *, serving: bool = False) -> Engine:
    """Load the near model. Raises CheckpointError."""
    # llama.cpp's library takes a while to load: not before it is needed.
    from edge.llama.runtime import LlamaEngine, LlamaOptions

    path = find_gguf(settings.edge.model, here.models)
    chosen = settings.edge
    options = LlamaOptions(
        max_model_len=chosen.max_model_len,
        num_threads=chosen.num_threads,
        num_gpu_layers=chosen.num_gpu_layers,
        kv_cache_dtype=chosen.kv_cache_dtype,
        window=None if chosen.window < 0 else chosen.window,
        num_sinks=chosen.num_sinks,
        max_num_seqs=chosen.max_num_seqs or (NUM_SERVED if serving else 1),
        max_draft_tokens=chosen.max_draft_tokens,
        session_folder=here.cache / "sessions" if chosen.keep_sessions else None,
        session_budget_bytes=chosen.session_budget_mb << 20,
        # The embedded model is known; any other may be damaged in a way that ends llama.cpp.
        known_models=None if path == EDGE_MODEL else here.cache / "known_models.json",
    )
    return LlamaEngine(path, options=options)


def open_cloud(settings: Settings, here: Places) -> Engine | None:
    """Return the link to the cloud, not yet connected, or None where none is set up."""
    if not settings.cloud.url:
        return None
    from offload.link.client import CloudLink
    from offload.link.local import device_keys, server_key

    return CloudLink(
        settings.cloud.url,
        server_key=server_key(settings.cloud.url, settings.cloud.server_key, here.keys),
        device_keys=device_keys(here.keys),
        connect_timeout_s=settings.cloud.connect_timeout_s,
    )


def options_for(settings: Settings, here: Places, choice: Choice) -> HybridOptions:
    """Return how the hybrid decides for this model, these settings and these flags."""
    return HybridOptions(
        threshold=threshold(_policy_path(settings, here), settings.policy.min_logprob),
        offline=choice.offline or settings.policy.offline,
        forced=choice.forced,
    )


def open_hybrid(settings: Settings, here: Places, choice: Choice) -> Hybrid:
    """Return the two engines under one policy."""
    options = options_for(settings, here, choice)
    edge = open_edge(settings, here, serving=choice.serving)
    cloud = None if options.offline else open_cloud(settings, here)
    if choice.consent is None:
        return Hybrid(edge, cloud, options=options)
    return Hybrid(edge, cloud, options=options, consent=choice.consent)


def _policy_path(settings: Settings, here: Places) -> Path:
    path = find_gguf(settings.edge.model, here.models)
    return EDGE_POLICY if path == EDGE_MODEL else path.with_suffix(".policy.json")
