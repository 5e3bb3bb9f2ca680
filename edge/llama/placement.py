"""Where a model's layers lie: on the GPU until it is full, the rest in the machine's memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge.llama.cache_shape import CacheShape
from edge.llama.context import ContextParams
from edge.llama.fit import MB, DoesNotFit
from edge.llama.gpu import Gpu, Layers, num_layers_that_fit, own_free_bytes
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.plan import bound_compute_bytes, plan

ALL_LAYERS = 10_000


def place(path: Path, options: LlamaOptions, memory_bytes: int, gpus: Sequence[Gpu]) -> int:
    """Return how many layers to give to the GPUs; `memory_bytes` are free in the machine.

    Raises DoesNotFit where the model fits nowhere, or where the GPUs do not hold as many layers
    as `num_gpu_layers` asks for; CheckpointError for a file that cannot be run.
    """
    if not gpus or options.num_gpu_layers == 0:
        return 0
    if not options.check_memory:
        return ALL_LAYERS if options.num_gpu_layers < 0 else options.num_gpu_layers
    with Model(path, weights=False) as model:
        params = plan(model, options, memory_bytes + own_free_bytes(gpus))
        layers = layers_of(model, params)
        compute = bound_compute_bytes(model, options, params.num_tokens)
        held = num_layers_that_fit(layers, gpus, compute)
    if options.num_gpu_layers < 0:
        return held
    if (asked := min(options.num_gpu_layers, layers.num_layers + 1)) > held:
        free = sum(gpu.free_bytes for gpu in gpus)
        raise DoesNotFit(
            f"num_gpu_layers is {asked} and the GPU's free {free // MB} MB hold {held}; "
            "set it to -1 for as many as fit"
        )
    return asked


def layers_of(model: Model, params: ContextParams) -> Layers:
    """Return what a layer takes; embeddings are counted as if they were spread over the layers."""
    count = max(1, (model.numbers("block_count") or [1])[0])
    cache = CacheShape.of(model).cache_bytes(params.kv_types, params.num_tokens * params.num_seqs)
    return Layers(
        num_layers=count,
        layer_bytes=-(-model.size_bytes // count),
        cache_bytes=-(-cache // count),
    )
