"""Memory fit of a Hugging Face folder: whether and how it fits, told before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from backbone.config import NetworkConfig
from edge.llama.fit import CACHE_SHARE, COMFORTABLE_LEN, LEAST_LEN, MARGIN, MB, DoesNotFit
from edge.small_gpu.options import TorchOptions
from engine.torch.kv.ring_cache import Ring, RingTables
from quantize.model_files import ModelFiles


@dataclass(frozen=True, kw_only=True)
class RingPlan:
    """Ring plan: how an engine's rings are made, and how many there may be."""

    limit: int
    bits: tuple[int, int]
    block: int
    residual: int
    num_sinks: int
    chunk: int
    num_slots: int

    def ring(
        self,
        config: NetworkConfig,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        tables: RingTables | None = None,
    ) -> Ring:
        """Make a ring."""
        return Ring(
            config,
            limit=self.limit,
            bits=self.bits,
            block=self.block,
            residual=self.residual,
            num_sinks=self.num_sinks,
            chunk=self.chunk,
            device=device,
            dtype=dtype,
            tables=tables,
        )


def ring_plan(limit: int, options: TorchOptions) -> RingPlan:
    """Return the parts of rings that hold `limit` tokens."""
    sliding = options.window != 0
    # Small contexts are cut into small pieces, or one eviction would empty them.
    return RingPlan(
        limit=limit,
        bits=options.kv_bits,
        block=min(options.kv_block, _power_of_two(limit // 8)),
        residual=min(options.kv_residual, limit // 4),
        num_sinks=min(options.num_sinks, limit // 8) if sliding else 0,
        chunk=min(options.max_num_batched_tokens, limit // 4),
        num_slots=options.max_num_seqs,
    )


def fitting_plan(
    files: ModelFiles,
    config: NetworkConfig,
    options: TorchOptions,
    *,
    limit: int,
    dtype: torch.dtype,
    free_bytes: int,
) -> RingPlan:
    """Return rings that fit beside the weights: as asked where anything was asked.

    Where the length is ours to choose it is halved until a quarter of the free memory holds the
    rings; below 4096 tokens 4-bit ones are tried, and at last one answer at a time. Raises
    DoesNotFit, with what is lacking, and CheckpointError for files that cannot be read.
    """
    weights = files.weight_bytes(dtype)
    room = int(MARGIN * free_bytes) - weights
    requested = ring_plan(limit, options)
    for plan, share in _candidates(requested, options):
        rings = plan.num_slots * _ring_bytes(config, plan, dtype)
        compute = _compute_bytes(config, plan, dtype)
        if rings <= share * free_bytes and rings + compute <= room:
            return plan
    lacking = rings + compute - room
    raise DoesNotFit(
        f"{files.path.name} needs {lacking / MB:.0f} MB more memory than is free ("
        f"{weights / MB:.0f} MB of weights, {rings / MB:.0f} MB for {plan.limit} tokens); close "
        "programs, set edge.max_model_len lower, or quantize it with `nearfar quantize gptq`"
    )


def _candidates(requested: RingPlan, options: TorchOptions) -> Iterator[tuple[RingPlan, float]]:
    """Yield plans and which share of the free memory their rings may take, best first."""
    narrow = [(8, 8), (4, 4)] if options.kv_cache_dtype == "auto" else [requested.bits]
    if options.max_model_len or options.window:
        lengths = [requested.limit]
    else:
        lengths = list(_halved(requested.limit))
        for length in lengths:
            if length >= min(COMFORTABLE_LEN, requested.limit):
                yield ring_plan(length, options), CACHE_SHARE
    for num_slots in dict.fromkeys((requested.num_slots, 1)):
        for length in lengths:
            if length <= COMFORTABLE_LEN or len(lengths) == 1:
                for bits in narrow:
                    yield replace(ring_plan(length, options), bits=bits, num_slots=num_slots), 1.0


def _halved(length: int) -> Iterator[int]:
    least = min(LEAST_LEN, length)
    while length >= least:
        yield length
        length //= 2


def _ring_bytes(config: NetworkConfig, plan: RingPlan, dtype: torch.dtype) -> int:
    return plan.ring(config, device="meta", dtype=dtype).num_bytes


def _compute_bytes(config: NetworkConfig, plan: RingPlan, dtype: torch.dtype) -> int:
    """Return at least what a step takes beside: activations, a layer's keys, logits, a matrix."""
    inner = config.intermediate_size
    rows = (plan.chunk + plan.num_slots) * (8 * config.hidden_size + 4 * inner) * dtype.itemsize
    # Keys and values of one layer: decoded, joined, and the keys rotated by way of copies.
    layer = 8 * plan.limit * config.num_key_value_heads * config.head_dim * dtype.itemsize
    logits = 4 * 4 * plan.num_slots * config.vocab_size
    decoded = 8 * config.hidden_size * inner  # a coded matrix is float32 before it is cast
    return rows + layer + logits + decoded


def _power_of_two(limit: int) -> int:
    return int(1 << (max(limit, 8).bit_length() - 1))
