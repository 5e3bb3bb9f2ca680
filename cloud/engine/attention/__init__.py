"""Attention backends, found by name; each is imported only when it is chosen."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable

import torch

from backbone.config import NetworkConfig
from backbone.errors import MissingExtra
from cloud.engine.attention.base import AttentionBackend
from cloud.engine.kv_cache import KVCache
from offload.errors import SettingsError

BACKENDS = {
    "torch": ("cloud.engine.attention.sdpa", "SdpaAttention"),
    "triton": ("cloud.engine.attention.split", "triton_and_sdpa"),
    "triton+varlen": ("cloud.engine.attention.split", "triton_and_varlen"),
}

_HALF = (torch.bfloat16, torch.float16)
_log = logging.getLogger(__name__)


def attention_backend(name: str, config: NetworkConfig, cache: KVCache) -> AttentionBackend:
    """Return a backend; "auto" is settled here, and logged. Raises SettingsError."""
    device, dtype = cache.keys[0].device, cache.keys[0].dtype
    chosen = resolve(name, device, dtype)
    module, attribute = BACKENDS[chosen]
    try:
        build: Callable[[NetworkConfig, KVCache], AttentionBackend]
        build = getattr(importlib.import_module(module), attribute)
        backend = build(config, cache)
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "triton", "cloud") from None
    _log.info("attention backend %s (asked for: %s)", chosen, name)
    return backend


def resolve(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend that "auto" means, or the name itself where the device can run it."""
    if dtype == torch.int8 and name not in ("auto", "torch"):
        raise SettingsError(
            f"attention_backend is {name!r}, which reads no int8 cache; use torch, or "
            "kv_cache_dtype auto"
        )
    if name == "auto":
        # The reference, until the others are measured on a GPU.
        return "torch"
    if name == "triton+varlen" and (device.type != "cuda" or dtype not in _HALF):
        raise SettingsError(
            f"attention_backend is {name!r}, which needs a GPU and bfloat16 or float16; use torch"
        )
    return name
