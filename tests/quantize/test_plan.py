from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backbone.errors import NearfarError
from quantize.architectures import architecture_of, as_in_checkpoint, as_stored
from quantize.calibration import CalibrationOptions
from quantize.calibration_text import default_text
from quantize.curvature import CurvatureProbe
from quantize.gguf import convert
from quantize.knapsack import Option, choose
from quantize.measure_importance import measure_importance
from quantize.plan import (
    TypePlan,
    budget_for_bpw,
    budget_for_memory,
    convert_by_plan,
    make_plan,
    parse_bytes,
)
from quantize.sensitivity import Sensitivity, SensitivityOptions, measure_sensitivity

Make = Callable[..., Path]
FEW = SensitivityOptions(
    types=("q3_k", "q4_k", "q8_0"), text=CalibrationOptions(num_windows=2, window_len=32)
)
SHAPE = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}

sizes = st.integers(1, 60)
costs = st.floats(0, 10, allow_nan=False)
options = st.lists(
    st.builds(lambda s, c: Option(name="x", size_bytes=s, cost=c), sizes, costs),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150)
@given(st.lists(options, min_size=1, max_size=4), st.integers(1, 200))
def test_the_choice_is_the_best_that_fits(items: list[list[Option]], budget: int) -> None:
    fitting = [
        sum(option.cost for option in chosen)
        for chosen in itertools.product(*items)
        if sum(option.size_bytes for option in chosen) <= budget
    ]
    found = choose(items, budget)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert all(option in row for option, row in zip(found, items, strict=True))
    assert sum(option.size_bytes for option in found) <= budget
    assert sum(option.cost for option in found) == pytest.approx(min(fitting))


def test_large_sizes_lose_next_to_nothing_by_rounding() -> None:
    rng = np.random.default_rng(0)
    items = [
        [
            Option(name=str(k), size_bytes=int(base * bits), cost=float(cost * 4.0**-bits))
            for k, bits in enumerate((2, 3, 4, 5, 6, 8))
        ]
        for base, cost in zip(
            rng.integers(100_000, 10_000_000, 120), rng.uniform(0, 1, 120), strict=True
        )
    ]
    whole = sum(row[2].size_bytes for row in items)
    found = choose(items, whole)
    assert found is not None
    used = sum(option.size_bytes for option in found)
    assert 0.999 * whole < used <= whole
    assert sum(o.cost for o in found) < sum(row[2].cost for row in items)


@pytest.fixture
def measured(make_checkpoint: Make) -> tuple[Path, Sensitivity]:
    source = make_checkpoint("llama", **SHAPE)
    return source, measure_sensitivity(source, options=FEW)


def test_more_bits_hurt_less_in_every_matrix(measured: tuple[Path, Sensitivity]) -> None:
    _, found = measured
    assert len(found.kld) == 7 + 2
    for name, kld in found.kld.items():
        assert kld["q3_k"] > kld["q4_k"] > kld["q8_0"] > 0, name
        sizes = found.size_bytes[name]
        assert sizes["q3_k"] < sizes["q4_k"] < sizes["q8_0"], name


def test_the_file_has_the_planned_types_and_no_more_than_the_budget(
    measured: tuple[Path, Sensitivity], tmp_path: Path
) -> None:
    source, found = measured
    budget = budget_for_bpw(found, 5.0)
    plan = make_plan(found, budget)
    done = convert_by_plan(source, tmp_path / "m.gguf", plan)
    assert done.size_bytes <= budget
    assert abs(done.size_bytes - plan.size_bytes) < 200
    assert {n: done.tensor_types[n].lower() for n in plan.types} == dict(plan.types)
    assert len(set(plan.types.values())) > 1, "a mix, not one type"


def test_a_plan_hurts_less_than_one_type_of_the_same_size(
    measured: tuple[Path, Sensitivity],
) -> None:
    _, found = measured
    uniform = sum(kld["q4_k"] for kld in found.kld.values())
    budget = sum(s["q4_k"] for s in found.size_bytes.values()) + found.overhead_bytes
    assert make_plan(found, budget).predicted_kld <= uniform


def test_a_larger_budget_never_hurts(measured: tuple[Path, Sensitivity]) -> None:
    _, found = measured
    plans = [make_plan(found, budget_for_bpw(found, bpw)) for bpw in (3.6, 4.5, 6.0, 9.0)]
    assert all(a.predicted_kld >= b.predicted_kld for a, b in itertools.pairwise(plans))
    assert set(plans[-1].types.values()) == {"q8_0"}


def test_too_small_a_budget_says_what_would_do(measured: tuple[Path, Sensitivity]) -> None:
    _, found = measured
    with pytest.raises(NearfarError, match="larger budget"):
        make_plan(found, 1000)


def test_importance_is_measured_and_used_by_the_plan(make_checkpoint: Make, tmp_path: Path) -> None:
    source = make_checkpoint("qwen3", **SHAPE, tie_word_embeddings=True)
    importance = measure_importance(source, options=FEW.text).values
    found = measure_sensitivity(source, importance=importance, options=FEW)
    plan = make_plan(found, budget_for_bpw(found, 4.6))
    with_it = convert_by_plan(source, tmp_path / "a.gguf", plan, importance=importance)
    without = convert_by_plan(source, tmp_path / "b.gguf", plan)
    assert with_it.size_bytes == without.size_bytes
    assert with_it.path.read_bytes() != without.path.read_bytes()


def test_what_was_measured_is_kept_for_the_same_question_only(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint("llama", **SHAPE)
    cache = tmp_path / "cache.json"
    found = measure_sensitivity(source, options=FEW, cache=cache)

    def no_run(*_: object) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(CurvatureProbe, "curvatures", no_run)
    assert measure_sensitivity(source, options=FEW, cache=cache) == found
    fewer = replace(FEW, types=("q4_k",))
    with pytest.raises(AssertionError, match="measured again"):
        measure_sensitivity(source, options=fewer, cache=cache)
    cache.write_text("[]")
    with pytest.raises(NearfarError, match="holds no measurements"):
        measure_sensitivity(source, options=FEW, cache=cache)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_small_error_costs_what_the_curvature_says(make_checkpoint: Make, kind: str) -> None:
    source = make_checkpoint(kind, **SHAPE)
    text = CalibrationOptions(num_windows=16, window_len=32)
    probe, random = CurvatureProbe(source, default_text(), text), np.random.default_rng(0)
    curvatures = probe.curvatures()
    assert set(curvatures) == set(probe.shapes())
    for name, found in curvatures.items():
        shape = probe.shapes()[name]
        original = -probe.error(name, np.zeros(shape, dtype=np.float32)).numpy()
        noise = random.standard_normal(shape).astype(np.float32) * 0.02 * np.abs(original).mean()
        error = probe.error(name, original + noise)
        predicted = sum(each.divergence(error) for each in found)
        measured = probe.kld_with(name, original + noise)
        floor = 1e-8  # float32 tells no smaller divergence
        assert measured / 1.5 - floor < predicted < measured * 1.5 + floor, name


def test_rows_that_no_block_divides_keep_types_that_fit(make_checkpoint: Make) -> None:
    source = make_checkpoint("llama")  # rows of 64 and 96
    few = SensitivityOptions(types=("q4_k", "q8_0"), text=FEW.text)
    found = measure_sensitivity(source, options=few)
    assert all(list(kld) == ["q8_0"] for kld in found.kld.values())


def test_interleaved_rows_come_back_as_they_were(make_checkpoint: Make) -> None:
    config = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "hidden_size": 24}
    architecture = architecture_of({"model_type": "llama"})
    for name, rows in (("blk.0.attn_q.weight", 24), ("blk.0.attn_k.weight", 12)):
        matrix = np.arange(rows * 5, dtype=np.float32).reshape(rows, 5)
        stored = as_stored(architecture, config, name, matrix)
        assert not np.array_equal(stored, matrix)
        assert np.array_equal(as_in_checkpoint(architecture, config, name, stored), matrix)


def test_the_budget_leaves_room_for_the_cache() -> None:
    config = {
        "hidden_size": 64,
        "num_hidden_layers": 10,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    short = budget_for_memory(config, 1 << 30, context_len=1000, kv_bits=16)
    long = budget_for_memory(config, 1 << 30, context_len=2000, kv_bits=16)
    assert short - long == 1000 * 2 * 10 * 2 * 16 * 2
    with pytest.raises(NearfarError, match="smaller context"):
        budget_for_memory(config, 1 << 20, context_len=1000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("400MB", 400_000_000), ("1.5 GiB", 3 << 29), ("123456", 123456), ("2k", 2000)],
)
def test_sizes_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "4 TB", "ten"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(NearfarError, match="no size"):
        parse_bytes(text)


def test_overrides_name_each_matrix_exactly(make_checkpoint: Make, tmp_path: Path) -> None:
    types = {"blk.0.attn_q.weight": "q8_0", "token_embd.weight": "q6_k", "output.weight": "f16"}
    plan = TypePlan(types=types, size_bytes=1, bits_per_weight=1.0, predicted_kld=0.0)
    source = make_checkpoint("llama", **SHAPE | {"num_hidden_layers": 2})
    done = convert(source, tmp_path / "m.gguf", kind="q4_0", overrides=plan.overrides)
    assert {n: done.tensor_types[n].lower() for n in types} == types
    assert done.tensor_types["blk.1.attn_q.weight"] == "Q4_0"
