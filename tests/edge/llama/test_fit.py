from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from backbone.errors import CheckpointError, NearfarError
from edge.llama.context import ContextParams
from edge.llama.fit import MB, choose, measure
from edge.llama.kv_types import CacheShape, KvTypes
from edge.llama.native_handles import Model
from edge.llama.options import LlamaOptions
from edge.llama.plan import bound_compute_bytes, plan
from offload.errors import SettingsError

# Llama 3.2 1B: 16 layers, 8 KV heads of 64; 32 KB a token in f16.
SHAPE = CacheShape(num_kv_heads=128, k_head=64, v_head=64)


def _choose(free_mb: int, **changes: object):
    known = {"weights_bytes": 800 * MB, "compute_bytes": lambda n: 100 * MB, "trained_len": 131_072}
    return choose("m.gguf", SHAPE, free_bytes=free_mb * MB, **{**known, **changes})  # type: ignore


def test_open_length_takes_a_quarter_of_the_memory_in_f16() -> None:
    fit = _choose(8000)
    assert str(fit.kv_types) == "f16"
    taken = SHAPE.cache_bytes(fit.kv_types, fit.num_tokens)
    assert taken <= 2000 * MB < 2 * taken
    assert _choose(1_000_000).num_tokens == 131_072


def test_precision_goes_only_when_a_comfortable_length_does_not_fit() -> None:
    sizes = (1400, 1250, 1120, 1090, 1070, 1050, 1041)
    found = [(f.num_tokens, str(f.kv_types)) for f in map(_choose, sizes)]
    assert found == [
        (8192, "f16"),
        (4096, "f16"),
        (4096, "q8_0/f16"),
        (4096, "q8_0"),
        (4096, "q8_0/q4_0"),
        (4096, "q4_0"),
        (2048, "q8_0"),
    ]


def test_asked_length_is_kept_and_the_type_gives_way() -> None:
    sizes = (2200, 1950, 1700, 1500, 1400)
    found = [str(_choose(free, asked_len=32_768).kv_types) for free in sizes]
    assert found == ["f16", "q8_0/f16", "q8_0", "q8_0/q4_0", "q4_0"]


def test_uneven_keys_give_way_last() -> None:
    uneven = replace(SHAPE, keys_are_uneven=True)
    known = {"weights_bytes": 800 * MB, "compute_bytes": lambda n: 100 * MB, "trained_len": 131_072}
    found = [
        str(choose("m", uneven, free_bytes=free * MB, asked_len=32_768, **known).kv_types)  # type: ignore
        for free in (2200, 1950, 1700)
    ]
    assert found == ["f16", "f16/q8_0", "q8_0"]


def test_auto_halves_the_cache_where_f16_fits_only_half_of_the_length() -> None:
    """The length that was asked for is kept, and the type is the largest that fits."""
    half = CacheShape(num_kv_heads=128, k_head=64, v_head=64)
    size = half.cache_bytes(KvTypes.parse("f16"), 8192)
    known = {"weights_bytes": 0, "compute_bytes": lambda n: 0, "trained_len": 8192}
    free = int(size * 0.55 / 0.9)
    asked = choose("m", half, free_bytes=free, asked_len=8192, **known)  # type: ignore
    assert (asked.num_tokens, str(asked.kv_types)) == (8192, "q8_0")
    with pytest.raises(NearfarError, match="set max_model_len to"):
        choose("m", half, free_bytes=free, asked_len=8192, kv_cache_dtype="f16", **known)  # type: ignore


def test_asked_length_that_cannot_fit_is_refused_with_one_that_does() -> None:
    with pytest.raises(NearfarError, match="set max_model_len to") as caught:
        _choose(1200, asked_len=131_072)
    fits = int(str(caught.value).split("max_model_len to ")[1].split()[0])
    assert _choose(1200, asked_len=fits).num_tokens == fits


def test_model_that_cannot_fit_is_refused_with_the_size_that_would() -> None:
    with pytest.raises(NearfarError, match="choose a model file below") as caught:
        _choose(700)
    below = int(str(caught.value).split("file below ")[1].split()[0])
    assert 0 < below < 800
    assert _choose(700, weights_bytes=below * MB)


def test_heads_that_blocks_do_not_divide_stay_f16() -> None:
    odd = CacheShape(num_kv_heads=10_000, k_head=8, v_head=8)
    known = {"weights_bytes": 0, "compute_bytes": lambda n: 0, "trained_len": 8192}
    assert str(choose("m", odd, free_bytes=10**11, **known).kv_types) == "f16"  # type: ignore
    with pytest.raises(NearfarError, match="multiple of 32"):
        choose("m", odd, free_bytes=10**11, kv_cache_dtype="q8_0", **known)  # type: ignore


def test_keys_that_could_not_slide_stay_f16() -> None:
    heads = CacheShape(num_kv_heads=128, k_head=96, v_head=96)
    known = {"weights_bytes": 0, "compute_bytes": lambda n: 0, "trained_len": 65_536}
    free = 200 * MB
    assert str(choose("m", heads, free_bytes=free, **known).kv_types) == "f16/q8_0"  # type: ignore
    still = choose("m", heads, free_bytes=free, sliding=False, **known)  # type: ignore
    assert str(still.kv_types) == "q8_0/f16"
    with pytest.raises(SettingsError, match="choose auto or f16/q8_0, or set window to 0"):
        choose("m", heads, free_bytes=free, kv_cache_dtype="q8_0", **known)  # type: ignore


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, make_tiny_gguf: Callable) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    return make_tiny_gguf(folder / "m.gguf", context_len=16_384, hidden=256, num_layers=3)


@pytest.mark.parametrize("kv", ["f16", "q8_0", "k8v4", "q4_0"])
@pytest.mark.parametrize("flash", [True, False])
def test_formulas_agree_with_llama_cpp(wide: Path, kv: str, flash: bool) -> None:
    kinds = KvTypes.parse(kv)
    if kinds.values_need_flash and not flash:
        pytest.skip("blocked values need flash attention")
    options = LlamaOptions(flash_attention=flash)
    for length in (1024, 16_384):
        params = ContextParams(
            num_tokens=length, kv_types=kinds, flash_attention=flash, num_outputs=16
        )
        need = measure(wide, params)
        with Model(wide) as model:
            assert need.weights_bytes == model.size_bytes
            formula = CacheShape.of(model).cache_bytes(kinds, length)
            assert formula == pytest.approx(need.cache_bytes, rel=0.02)
            bound = bound_compute_bytes(model, options, length)
            assert need.compute_bytes <= bound


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_measured_need_is_what_becomes_resident(wide: Path) -> None:
    script = """
import json, sys
from dataclasses import replace
from pathlib import Path
from edge.llama.fit import measure
from edge.llama.native_handles import Model
from edge.llama.context import Context, ContextParams
def anonymous():
    # Without the weights: they are mapped from the file.
    rows = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("RssAnon")) * 1024
params = ContextParams(num_tokens=4096, batch_size=512)
model = Model(Path(sys.argv[1]))
before = anonymous()
context = Context(model, params)
for start in range(0, 4096, 512):
    context.decode([1] * 512, start)
after = anonymous()
need = measure(Path(sys.argv[1]), params)
print(json.dumps([after - before, need.cache_bytes, need.compute_bytes]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(wide)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    resident, cache, compute = json.loads(done.stdout)
    assert resident == pytest.approx(cache + compute, rel=0.05, abs=2.5 * MB)


def test_measuring_a_damaged_file_is_refused(tmp_path: Path, wide: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(wide.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be measured"):
        measure(path, ContextParams(num_tokens=256))


@pytest.mark.parametrize(
    ("kv", "length", "free", "flash"),
    [
        ("f16", 2048, 10**12, False),
        ("q8_0/f16", 2048, 10**12, False),
        ("q8_0", 2048, 10**12, True),
        ("f16", 512, 10**12, True),
        ("f16", 2048, 0, True),
    ],
    ids=["plain", "plain values", "blocked values need it", "short", "no memory for scores"],
)
def test_flash_attention_is_left_out_where_it_is_the_slower_way(
    wide: Path, kv: str, length: int, free: int, flash: bool
) -> None:
    with Model(wide) as model:
        options = LlamaOptions(kv_cache_dtype=kv, max_model_len=length, num_gpu_layers=0)
        held = CacheShape.of(model).cache_bytes(KvTypes.parse(kv), length)
        needed = model.size_bytes + held + bound_compute_bytes(model, options, length)
        assert plan(model, options, free or 2 * needed + MB).flash_attention == flash
        for fixed in (True, False) if not flash else ():
            chosen = replace(options, flash_attention=fixed)
            assert plan(model, chosen, 10**12).flash_attention == fixed


def test_scores_that_would_take_much_memory_are_not_kept(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Model(wide) as model:
        options = LlamaOptions(kv_cache_dtype="f16", max_model_len=4096, num_gpu_layers=0)
        params = plan(model, options, 10**12)
        assert (params.flash_attention, params.batch_size) == (False, 512)
        without = replace(options, flash_attention=False)
        scores = bound_compute_bytes(model, without, 4096) - bound_compute_bytes(
            model, options, 4096
        )
        for share, expected in ((3, (False, 128)), (6, (False, 64)), (20, (True, 512))):
            monkeypatch.setattr("edge.llama.plan.SCORES_BYTES", scores // share)
            params = plan(model, options, 10**12)
            assert (params.flash_attention, params.batch_size) == expected


def test_plan_follows_options_and_memory(wide: Path) -> None:
    with Model(wide) as model:
        free = plan(model, LlamaOptions(num_threads=3, flash_attention=True), 10**12)
        assert (free.num_tokens, free.num_threads, free.batch_size) == (16_384, 3, 512)
        tight = plan(model, LlamaOptions(), model.size_bytes + 40 * MB)
        assert tight.num_tokens < 16_384
        with pytest.raises(NearfarError):
            plan(model, LlamaOptions(), model.size_bytes)
        assert plan(model, LlamaOptions(check_memory=False), 0).num_tokens == 16_384
        assert plan(model, LlamaOptions(window=500), 10**12).num_tokens == 504
        with pytest.raises(SettingsError, match="max_model_len is 20000"):
            plan(model, LlamaOptions(max_model_len=20_000), 10**12)
