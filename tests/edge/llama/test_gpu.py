"""How layers are divided between a GPU and the machine, with readings of devices made up here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.llama.fit import MB, DoesNotFit
from edge.llama.gpu import (
    ALL_LAYERS,
    Gpu,
    LayerSizes,
    find_gpus,
    layers_of,
    num_layers_that_fit,
    own_free_bytes,
    place,
)
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.plan import bound_compute_bytes, plan

LAYERS = LayerSizes(num_layers=24, layer_bytes=30 * MB, cache_bytes=2 * MB)


def _gpu(free_mb: int, **changes: object) -> Gpu:
    known = {"name": "g", "free_bytes": free_mb * MB, "total_bytes": free_mb * MB, **changes}
    return Gpu(**known)  # type: ignore[arg-type]


def test_layers_go_to_the_gpu_until_it_is_full() -> None:
    counts = [num_layers_that_fit(LAYERS, [_gpu(mb)], 100 * MB) for mb in range(0, 2000, 50)]
    assert counts == sorted(counts) and counts[0] == 0
    assert counts[-1] == 25, "all of them, and the output matrix"
    assert 0 < counts[10] < 25, "a part, where there is room for a part"
    for count, free in zip(counts, range(0, 2000, 50), strict=True):
        assert count == 0 or count * 32 + 100 <= free * 0.92


def test_two_gpus_hold_more_than_one() -> None:
    one, two = ([_gpu(400)] * n for n in (1, 2))
    assert num_layers_that_fit(LAYERS, two, 100 * MB) == 2 * num_layers_that_fit(
        LAYERS, one, 100 * MB
    )


def test_memory_that_is_shared_is_counted_once() -> None:
    assert own_free_bytes([_gpu(1000)]) == 920 * MB
    assert own_free_bytes([_gpu(1000, shares_memory=True)]) == 0


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, make_tiny_gguf: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("deep")
    return make_tiny_gguf(folder / "m.gguf", context_len=4096, hidden=256, num_layers=8)


OPTIONS = LlamaOptions(num_threads=1, max_model_len=1024, max_num_batched_tokens=64)


def _needed(deep: Path) -> tuple[int, int]:
    """Return the bytes of a layer, and of the buffers beside them."""
    with Model(deep, weights=False) as model:
        params = plan(model, OPTIONS, 10**10)
        layers = layers_of(model, params)
        compute = bound_compute_bytes(model, OPTIONS, params.num_tokens)
    return layers.layer_bytes + layers.cache_bytes, compute


def test_a_model_without_weights_tells_the_same(deep: Path) -> None:
    with Model(deep) as loaded, Model(deep, weights=False) as told:
        assert told.size_bytes == loaded.size_bytes
        assert told.numbers("block_count") == [8]
        assert plan(told, OPTIONS, 10**10) == plan(loaded, OPTIONS, 10**10)


def test_as_many_layers_as_fit(deep: Path) -> None:
    layer, compute = _needed(deep)
    for count in (0, 3, 8, 9):
        free = int((compute + (count + 0.5) * layer) / 0.92)
        gpu = Gpu(name="g", free_bytes=free, total_bytes=free)
        assert place(deep, OPTIONS, 10**10, [gpu]) == count


def test_a_model_too_large_for_the_machine_fits_beside_a_gpu(deep: Path) -> None:
    with Model(deep, weights=False) as model:
        size = model.size_bytes
    with pytest.raises(DoesNotFit), Model(deep, weights=False) as model:
        plan(model, OPTIONS, size // 2)
    assert place(deep, OPTIONS, size // 2, [_gpu(4000)]) == 9


def test_without_a_gpu_or_with_none_wanted_nothing_is_placed(deep: Path) -> None:
    assert place(deep, OPTIONS, 10**10, []) == 0
    none = LlamaOptions(num_gpu_layers=0)
    assert place(deep, none, 10**10, [_gpu(4000)]) == 0


def test_more_layers_than_fit_are_refused_with_the_number_that_does(deep: Path) -> None:
    layer, compute = _needed(deep)
    free = int((compute + 3.5 * layer) / 0.92)
    gpu = Gpu(name="g", free_bytes=free, total_bytes=free)
    known = {"num_threads": 1, "max_model_len": 1024, "max_num_batched_tokens": 64}
    assert place(deep, LlamaOptions(num_gpu_layers=3, **known), 10**10, [gpu]) == 3  # type: ignore
    with pytest.raises(DoesNotFit, match=r"num_gpu_layers is 8 .* hold 3; set it to -1"):
        place(deep, LlamaOptions(num_gpu_layers=8, **known), 10**10, [gpu])  # type: ignore


def test_unchecked_memory_places_what_is_asked(deep: Path) -> None:
    unchecked = LlamaOptions(check_memory=False)
    assert place(deep, unchecked, 0, [_gpu(1)]) == ALL_LAYERS
    some = LlamaOptions(check_memory=False, num_gpu_layers=5)
    assert place(deep, some, 0, [_gpu(1)]) == 5


def test_gpus_are_only_found_where_llama_cpp_can_use_them() -> None:
    from edge.llama.library import llama

    if llama().llama_supports_gpu_offload():
        assert all(gpu.total_bytes >= gpu.free_bytes > 0 for gpu in find_gpus())
    else:
        assert find_gpus() == []


def test_devices_are_read_from_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is a device too; called a GPU, it is read as one."""
    import ctypes

    from edge.llama import gpu as module
    from edge.llama.library import llama

    lib = llama()._lib
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_dev_description.restype = ctypes.c_char_p
    device = ctypes.c_void_p(lib.ggml_backend_dev_get(0))
    assert module.read_gpu(lib, device) is None
    monkeypatch.setattr(module, "_GPU", lib.ggml_backend_dev_type(device))
    found = module.read_gpu(lib, device)
    assert found is not None and found.name and 0 < found.free_bytes <= found.total_bytes
