"""Attention backends, found by name; each is imported only when it is chosen."""

from __future__ import annotations

import importlib
import logging

import torch

from backbone.config import NetworkConfig
from cloud.engine.attention.base import AttentionBackend
from cloud.engine.kv_cache import KVCache

BACKENDS = {"torch": ("cloud.engine.attention.sdpa", "SdpaAttention")}

_log = logging.getLogger(__name__)


def attention_backend(name: str, config: NetworkConfig, cache: KVCache) -> AttentionBackend:
    """Return a backend; "auto" is settled by the device, and logged."""
    chosen = resolve(name, cache.keys[0].device, cache.keys[0].dtype)
    module, attribute = BACKENDS[chosen]
    backend: type[AttentionBackend] = getattr(importlib.import_module(module), attribute)
    _log.info("attention backend %s (asked for: %s)", chosen, name)
    return backend(config, cache)


def resolve(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return the backend that "auto" means on this device, or the name itself."""
    return "torch" if name == "auto" else name
