"""The GPUs that this build of llama.cpp can use, and how many layers of a model they hold."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from edge.device.profile import read_profile
from edge.llama.library import llama

GPU_MARGIN = 0.92  # of the free memory; drivers and other programs take a little at any time
_GPU, _INTEGRATED = 1, 2  # enum ggml_backend_dev_type of ggml-backend.h


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One device; `shares_memory` where its memory is the machine's own, as on a Jetson."""

    name: str
    free_bytes: int
    total_bytes: int
    shares_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What the layers of a model take; the output matrix counts as one layer more."""

    num_layers: int
    layer_bytes: int  # weights of one
    cache_bytes: int  # keys and values of one


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
    return [gpu for device in devices if (gpu := _read(lib, device)) is not None]


def _count(lib: ctypes.CDLL) -> int:
    return int(lib.ggml_backend_dev_count())


def _read(lib: ctypes.CDLL, device: ctypes.c_void_p) -> Gpu | None:
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


def num_layers_that_fit(layers: Layers, gpus: Sequence[Gpu], compute_bytes: int) -> int:
    """Return how many layers the GPUs hold beside one set of compute buffers each."""
    each = layers.layer_bytes + layers.cache_bytes
    held = 0
    for gpu in gpus:
        room = int(gpu.free_bytes * GPU_MARGIN) - compute_bytes
        held += max(0, room // each)
    return min(held, layers.num_layers + 1)
