"""GPUs that this build of llama.cpp can use, and how many layers of a model they hold."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.device.profile import read_profile
from edge.llama.context import ContextParams
from edge.llama.fit import MB, DoesNotFit
from edge.llama.kv_types import CacheShape
from edge.llama.library import llama
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.plan import bound_compute_bytes, plan

GPU_MARGIN = 0.92  # of the free memory; drivers and other programs take a little at any time
_GPU, _INTEGRATED = 1, 2  # enum ggml_backend_dev_type of ggml-backend.h


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """GPU of llama.cpp; `shares_memory` where its memory is the machine's own, as on a Jetson."""

    name: str
    free_bytes: int
    total_bytes: int
    shares_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerSizes:
    """Layer sizes of a model in bytes; the output matrix counts as one layer more."""

    num_layers: int
    layer_bytes: int  # weights of one
    cache_bytes: int  # of its KV cache


def find_gpus() -> list[Gpu]:
    """Return the GPUs, none where this build of llama.cpp has no backend for them."""
    if not llama().llama_supports_gpu_offload():
        return []
    lib = llama()._lib
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_dev_description.restype = ctypes.c_char_p
    devices = [ctypes.c_void_p(lib.ggml_backend_dev_get(i)) for i in range(_count(lib))]
    return [gpu for device in devices if (gpu := read_gpu(lib, device)) is not None]


def _count(lib: ctypes.CDLL) -> int:
    return int(lib.ggml_backend_dev_count())


def read_gpu(lib: ctypes.CDLL, device: ctypes.c_void_p) -> Gpu | None:
    kind = lib.ggml_backend_dev_type(device)
    if kind not in (_GPU, _INTEGRATED):
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    return Gpu(
        name=lib.ggml_backend_dev_description(device).decode("utf-8", "replace"),
        free_bytes=free.value,
        total_bytes=total.value,
        # CUDA calls the GPU of a Jetson a GPU like any other.
        shares_memory=kind == _INTEGRATED or read_profile().unified_memory,
    )


def own_free_bytes(gpus: Sequence[Gpu]) -> int:
    """Return the bytes that GPUs add to the machine's memory."""
    return sum(int(gpu.free_bytes * GPU_MARGIN) for gpu in gpus if not gpu.shares_memory)


def num_layers_that_fit(layers: LayerSizes, gpus: Sequence[Gpu], compute_bytes: int) -> int:
    """Return how many layers the GPUs hold beside one set of compute buffers each."""
    each = layers.layer_bytes + layers.cache_bytes
    held = 0
    for gpu in gpus:
        room = int(gpu.free_bytes * GPU_MARGIN) - compute_bytes
        held += max(0, room // each)
    return min(held, layers.num_layers + 1)


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
    if (requested := min(options.num_gpu_layers, layers.num_layers + 1)) > held:
        free = sum(gpu.free_bytes for gpu in gpus)
        raise DoesNotFit(
            f"num_gpu_layers is {requested} and the GPU's free {free // MB} MB hold {held}; "
            "set it to -1 for as many as fit"
        )
    return requested


def layers_of(model: Model, params: ContextParams) -> LayerSizes:
    """Return what a layer takes; embeddings are counted as if they were spread over the layers."""
    count = max(1, (model.numbers("block_count") or [1])[0])
    cache = CacheShape.of(model).cache_bytes(params.kv_types, params.num_tokens * params.num_seqs)
    return LayerSizes(
        num_layers=count,
        layer_bytes=-(-model.size_bytes // count),
        cache_bytes=-(-cache // count),
    )
