"""The attention backends by name; each is imported only when it is chosen."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from backbone.config import NetworkConfig
from backbone.errors import MissingExtra
from engine.torch.attention.base import AttentionBackend
from engine.torch.kv.kv_cache import CODED, KVCache
from offload.errors import SettingsError

_HALF = (torch.bfloat16, torch.float16)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Where a backend's code is, and what it can do beside plain causal attention and windows."""

    module: str
    attribute: str
    extra: str = "cloud"  # brings its package
    soft_capping: bool = False
    sinks: bool = False
    coded_cache: bool = False  # a KV cache in int8 or fp8
    needs_half_on_gpu: bool = False
    in_triton: bool = False
    block_multiple: int = 1  # of tokens in a block


BACKENDS = {
    "torch": Backend(
        module="engine.torch.attention.sdpa",
        attribute="SdpaAttention",
        soft_capping=True,
        sinks=True,
        coded_cache=True,
    ),
    "triton": Backend(
        module="engine.torch.attention.base",
        attribute="triton_and_sdpa",
        in_triton=True,
        soft_capping=True,
        sinks=True,
        coded_cache=True,
    ),
    "triton+varlen": Backend(
        module="engine.torch.attention.base",
        attribute="triton_and_varlen",
        coded_cache=True,
        needs_half_on_gpu=True,
    ),
    "flex": Backend(
        module="engine.torch.attention.flex",
        attribute="FlexAttention",
        soft_capping=True,
        sinks=True,
        coded_cache=True,
    ),
    "flash_attn": Backend(
        module="engine.torch.attention.flash",
        attribute="FlashAttention",
        soft_capping=True,
        needs_half_on_gpu=True,
        block_multiple=256,
    ),
}
# What "auto" means where nothing was measured (engine/torch/auto_choice.py): the reference.
_AUTO = ("torch",)


def attention_backend(
    name: str, config: NetworkConfig, cache: KVCache, dtype: torch.dtype | None = None
) -> AttentionBackend:
    """Return a backend; "auto" is settled here, and logged. Raises SettingsError.

    `dtype` is that of the queries, where the cache's own is another.
    """
    chosen = resolve(name, config, cache, dtype)
    entry = BACKENDS[chosen]
    try:
        build: Callable[[NetworkConfig, KVCache], AttentionBackend]
        build = getattr(importlib.import_module(entry.module), entry.attribute)
        backend = build(config, cache)
    except ModuleNotFoundError as missing:
        raise MissingExtra(missing.name or "triton", entry.extra) from None
    _log.info("attention backend %s (asked for: %s)", chosen, name)
    return backend


def resolve(
    name: str, config: NetworkConfig, cache: KVCache, dtype: torch.dtype | None = None
) -> str:
    """Return the backend that "auto" means, or the name itself where it can do what is needed.

    Raises SettingsError where it cannot, with the reason.
    """
    if name == "auto":
        return next(each for each in _AUTO if refusal(BACKENDS[each], config, cache, dtype) is None)
    if reason := refusal(BACKENDS[name], config, cache, dtype):
        raise SettingsError(f"attention_backend is {name!r}, which {reason}; use auto")
    return name


def refusal(
    backend: Backend, config: NetworkConfig, cache: KVCache, dtype: torch.dtype | None = None
) -> str | None:
    """Return why a backend cannot run a model over a cache, as the end of a sentence, or None."""
    device, stored = cache.keys[0].device, cache.keys[0].dtype
    if config.attn_logit_softcapping is not None and not backend.soft_capping:
        return f"cannot cap attention scores as {config.model_type} asks; use torch"
    if config.num_sinks and not backend.sinks:
        return "has no attention sinks; use torch, or leave attention_sinks 0"
    if stored in CODED and not backend.coded_cache:
        return f"reads no {CODED[stored]} cache; use torch, or kv_cache_dtype auto"
    if backend.needs_half_on_gpu and (device.type != "cuda" or (dtype or stored) not in _HALF):
        return "needs a GPU and bfloat16 or float16; use torch"
    if backend.in_triton and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "needs a GPU; use torch (TRITON_INTERPRET=1 interprets it on a CPU, for tests)"
    if cache.block_size % backend.block_multiple:
        return (
            f"reads blocks of {backend.block_multiple} tokens or a multiple; set block_size to "
            f"{backend.block_multiple}"
        )
    return None
