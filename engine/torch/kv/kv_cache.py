"""The KV cache of every layer in blocks, and how many blocks the memory holds."""

from __future__ import annotations

import math
import mmap

import torch
from torch import Tensor

from backbone.config import NetworkConfig
from backbone.process_limits import free_memory_bytes
from engine.torch.kv.blocks import Span
from offload.errors import SettingsError

# The cache's eight-bit kinds; what they are called in options and errors.
CODED = {torch.int8: "int8", torch.float8_e4m3fn: "fp8"}
# A CPU is shared with other programs; its cache never takes more of what is free now.
_CPU_SHARE = 0.25


class KVCache:
    """KV cache: a tensor of keys and one of values per layer, [blocks, block_size, kv_heads, dim].

    In eight bits (`CODED`), each head of each token has a scale of its own, in float32.
    """

    def __init__(
        self,
        config: NetworkConfig,
        num_blocks: int,
        block_size: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        # One more block than is handed out: where the padding of a recorded batch writes.
        shape = (num_blocks + 1, block_size, config.num_key_value_heads, config.head_dim)
        layers = range(config.num_hidden_layers)
        self.keys = [_zeros(shape, device, dtype) for _ in layers]
        self.values = [_zeros(shape, device, dtype) for _ in layers]
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.scratch_slot = num_blocks * block_size
        # By token: [blocks * block_size, kv_heads, dim], the same storage.
        self.flat = [
            (k.flatten(0, 1), v.flatten(0, 1)) for k, v in zip(self.keys, self.values, strict=True)
        ]
        # By token: [blocks * block_size, kv_heads, 1].
        self.scales: list[tuple[Tensor, Tensor]] | None = None
        if dtype in CODED:
            size = (shape[0] * block_size, config.num_key_value_heads, 1)
            self.scales = [
                (_zeros(size, device, torch.float32), _zeros(size, device, torch.float32))
                for _ in layers
            ]

    def store(self, layer: int, k: Tensor, v: Tensor, slots: Tensor) -> None:
        """Put k and v [tokens, kv_heads, dim] where `slots` [tokens] say."""
        for part, rows in enumerate((k, v)):
            if self.scales is not None:
                rows, scale = _coded(rows, self.keys[layer].dtype)
                self.scales[layer][part].index_copy_(0, slots, scale)
            _bytes_or_self(self.flat[layer][part]).index_copy_(0, slots, _bytes_or_self(rows))

    def gather(self, layer: int, slots: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the keys and values [slots, kv_heads, dim] of a layer, decoded to `dtype`."""
        keys, values = (part.index_select(0, slots) for part in self.flat[layer])
        if self.scales is None:
            return keys, values
        k_scale, v_scale = (part.index_select(0, slots) for part in self.scales[layer])
        return (keys.float() * k_scale).to(dtype), (values.float() * v_scale).to(dtype)


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return zeros; a CPU's become resident page by page, where something is first stored."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    # torch.zeros would write them all, and so hold at once what may never be used.
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=torch.uint8).view(dtype).view(shape)


def _coded(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return rows [..., dim] in eight bits, and what to multiply them by [..., 1] in float32.

    int8 has 255 even steps around zero; fp8 (e4m3, arXiv 2209.05433) has three bits of mantissa
    at every size.
    """
    largest = rows.float().abs().amax(-1, keepdim=True).clamp_min(1e-8)
    if dtype == torch.int8:
        scale = largest / 127
        return (rows / scale).round().to(dtype), scale
    top = torch.finfo(dtype).max
    scale = largest / top
    return (rows.float() / scale).clamp(-top, top).to(dtype), scale


def _bytes_or_self(rows: Tensor) -> Tensor:
    # torch copies no fp8 by index on a CPU.
    return rows.view(torch.uint8) if rows.dtype == torch.float8_e4m3fn else rows


def block_bytes(config: NetworkConfig, block_size: int, dtype: torch.dtype) -> int:
    """Return the bytes of one block of the KV cache in all layers, scales included."""
    per_head = config.head_dim * dtype.itemsize
    if dtype in CODED:
        per_head += torch.float32.itemsize
    return 2 * config.num_hidden_layers * config.num_key_value_heads * per_head * block_size


def span_of(config: NetworkConfig, block_size: int) -> Span:
    """Return what a sequence keeps: what is behind the widest window, if every layer has one."""
    windows = [window for window in config.windows() if window is not None]
    every = len(windows) == config.num_hidden_layers
    return Span(
        block_size=block_size,
        window=max(windows) if every else None,
        num_sinks=config.num_sinks if every else 0,
    )


def num_blocks_for(
    config: NetworkConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    block_size: int,
    max_model_len: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    gpu_memory_utilization: float,
) -> int:
    """Return how many blocks fit, and never more than all sequences at full length can use.

    On a GPU to be called after a dummy step, whose peak is kept free for activations.
    Raises SettingsError where not even one full sequence fits.
    """
    free = _free_bytes(device, gpu_memory_utilization)
    span = span_of(config, block_size)
    per_sequence = span.most_at_once(max_model_len, max_num_batched_tokens)
    fits = free // block_bytes(config, block_size, dtype) - 1
    if fits < per_sequence:
        raise SettingsError(
            f"max_model_len is {max_model_len} and the memory left holds "
            f"{max(0, fits) * block_size} of the {per_sequence * block_size} tokens that it keeps "
            "at once; lower max_model_len or free memory"
        )
    return min(fits, per_sequence * max_num_seqs)


def usable_bytes(device: torch.device, gpu_memory_utilization: float) -> int:
    """Return what an engine that is not loaded yet may take: of a CPU's memory, a share."""
    if device.type == "cpu":
        return int(free_memory_bytes() * _CPU_SHARE)
    free, total = torch.cuda.mem_get_info(device)
    return int(total * gpu_memory_utilization) - (total - free)


def _free_bytes(device: torch.device, gpu_memory_utilization: float) -> int:
    if device.type == "cpu":
        return int(free_memory_bytes() * _CPU_SHARE)
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    # Weights and, since a dummy step ran, the activations of the largest step.
    ours = torch.cuda.max_memory_allocated(device)
    return int(total * gpu_memory_utilization - others - ours)
