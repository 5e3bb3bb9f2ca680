"""Tuning: what is quicker is kept with its reason; noise and a person's own choices are not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from backbone.errors import CheckpointError
from edge.doctor import tune as tuning
from edge.doctor.chosen_settings import chosen_settings
from edge.doctor.tune import TuningResult, quick_window, tune
from edge.llama.options import LlamaOptions
from edge.llama.speed import Speed, measured_speed, prompt_of
from offload.config.places import places
from offload.config.settings import EdgeSettings, Settings
from offload.config.settings_reading import load
from offload.config.settings_sources import read_remarks
from offload.pair import EDGE_MODEL

Quick = Callable[[EdgeSettings], float]


def speed(
    read: float = 100.0,
    write: float = 10.0,
    *,
    prompt: int = 512,
    length: int = 4096,
    kinds: str = "q8_0/f16",
) -> Speed:
    return Speed(
        kv_cache_dtype=kinds,
        prefill_tokens_per_s=read,
        decode_tokens_per_s=write,
        prompt_tokens=prompt,
        max_model_len=length,
    )


@pytest.fixture(autouse=True)
def four_cores_and_nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEARFAR_EDGE_NUM_THREADS")
    monkeypatch.setattr(tuning, "num_usable_cores", lambda: 4)


def device(quick: Quick) -> Callable[[Settings, int], Speed]:
    """A device on which settings are so many times as quick as the defaults."""

    def measure(settings: Settings, tokens: int) -> Speed:
        times = quick(settings.edge)
        return speed(100 * times, 10 * times, prompt=tokens)

    return measure


def run(quick: Quick) -> TuningResult:
    here = places()
    return tune(load(here.config_file), here, measure=device(quick), clock=lambda: 0.0)


def test_settings_that_are_quicker_together_are_kept_with_reason_and_date() -> None:
    def quick(edge: EdgeSettings) -> float:
        threads = 1.2 if edge.num_threads == 3 else 1.0
        return threads * (1.5 if edge.max_num_batched_tokens == 128 else 1.0)

    found = run(quick)
    assert found.kept == {"num_threads": 3, "max_num_batched_tokens": 128}
    here = places()
    settings = load(here.config_file).edge
    assert (settings.num_threads, settings.max_num_batched_tokens) == (3, 128)
    remark = read_remarks(here.config_file, "edge")["num_threads"]
    assert remark.startswith("measured 20") and "80% quicker" in remark


def test_a_small_gain_is_not_worth_a_fixed_setting() -> None:
    found = run(lambda edge: 1.04 if edge.num_threads else 1.0)
    assert found.kept == {} and found.reason == "the defaults are as quick"
    assert "num_threads" not in places().config_file.read_text()


def test_what_an_earlier_tuning_kept_goes_when_it_no_longer_pays() -> None:
    run(lambda edge: 2.0 if edge.num_threads == 2 else 1.0)
    assert load(places().config_file).edge.num_threads == 2
    run(lambda edge: 1.0)
    assert load(places().config_file).edge.num_threads == 0


def test_what_a_person_set_is_left_alone() -> None:
    here = places()
    here.config.mkdir()
    here.config_file.write_text("[edge]\nnum_threads = 2  # mine\nwindow = 0\n")
    found = run(lambda edge: 2.0 if edge.num_threads == 4 else 1.0)
    assert found.left_alone == ["num_threads", "window"] and found.kept == {}
    assert load(here.config_file).edge.num_threads == 2


def test_a_busy_device_keeps_nothing_and_is_told() -> None:
    speeds = itertools.cycle([1.0, 0.5, 3.0, 0.4, 2.0, 5.0, 0.3])
    found = run(lambda edge: next(speeds))
    assert found.kept == {} and "too busy to tell" in found.reason


def test_a_type_that_would_shorten_the_context_is_not_chosen() -> None:
    def measure(settings: Settings, tokens: int) -> Speed:
        if settings.edge.kv_cache_dtype == "f16":
            return speed(400, 40, prompt=tokens, length=1024)
        return speed(100, 10, prompt=tokens)

    here = places()
    assert tune(load(here.config_file), here, measure=measure, clock=lambda: 0.0).kept == {}


def test_a_cache_that_pays_only_after_a_long_prompt_is_found() -> None:
    def measure(settings: Settings, tokens: int) -> Speed:
        compressed = settings.edge.kv_cache_dtype == "auto" and tokens > 1000
        return speed(1000 / (2.0 if compressed else 1.0), prompt=tokens)

    here = places()
    found = tune(load(here.config_file), here, measure=measure, clock=lambda: 0.0)
    assert found.kept == {"kv_cache_dtype": "f16"}
    assert found.reason == "a long prompt is read and answered more quickly"


def test_a_cache_that_is_in_use_already_is_not_tried_again() -> None:
    def measure(settings: Settings, tokens: int) -> Speed:
        assert settings.edge.kv_cache_dtype == "auto"
        return speed(prompt=tokens, kinds="f16")

    here = places()
    assert tune(load(here.config_file), here, measure=measure, clock=lambda: 0.0).is_whole


def test_a_window_is_judged_by_a_long_prompt() -> None:
    """After 512 tokens noise may look like a slope; after 4,096 there is none."""
    asked: list[int] = []

    def measure(settings: Settings, tokens: int) -> Speed:
        asked.append(tokens)
        return speed(1000, 10.0 if tokens != 512 else 8.0, prompt=tokens, length=32_768)

    here = places()
    found = tune(load(here.config_file), here, measure=measure, clock=lambda: 0.0)
    assert found.kept == {} and max(asked) == 4096


def test_the_time_bounds_the_search_and_that_is_told() -> None:
    here, now = places(), itertools.count(0.0, 20.0)
    measure = device(lambda edge: 1.0)
    found = tune(load(here.config_file), here, measure=measure, clock=lambda: next(now))
    assert not found.is_whole and len(found.trials) < 8


@pytest.mark.parametrize(
    ("short", "long", "window"),
    [
        (speed(prompt=32), speed(prompt=512, length=40_960), None),
        (speed(prompt=32), speed(write=10.5, prompt=512, length=40_960), None),
        # 19 ms more for 512 tokens on top of 100 ms: twice as long after some 2,690 of them
        (speed(prompt=0), speed(write=1 / 0.119, prompt=512, length=40_960), 2560),
        (speed(prompt=0), speed(write=1 / 0.119, prompt=512, length=2048), None),
        (speed(prompt=75), speed(write=1, prompt=80, length=40_960), None),
    ],
)
def test_a_window_is_kept_where_a_full_context_would_halve_the_speed(
    short: Speed, long: Speed, window: int | None
) -> None:
    assert quick_window(short, long) == window


def test_the_doctor_tells_which_settings_were_measured() -> None:
    run(lambda edge: 2.0 if edge.num_threads == 3 else 1.0)
    here = places()
    chosen = {each.name: each for each in chosen_settings(load(here.config_file), here, [])}
    assert chosen["num_threads"].why.startswith("measured 20")
    assert chosen["max_num_batched_tokens"].why == "the default"


def test_a_real_model_is_timed() -> None:
    found = measured_speed(EDGE_MODEL, LlamaOptions(num_threads=1), 64)
    assert found.prefill_tokens_per_s > 0 and found.decode_tokens_per_s > 0
    assert 0 < found.turn_s < float("inf") and found.max_model_len == 512


def test_prompts_of_different_numbers_share_no_beginning() -> None:
    assert prompt_of(64, 1).split()[0] != prompt_of(64, 2).split()[0]


def test_a_missing_model_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    here = places()
    settings = Settings(edge=EdgeSettings(model=str(tmp_path / "none.gguf")))
    with pytest.raises(CheckpointError, match="nearfar models list"):
        tune(settings, here)
    assert not here.config_file.exists()


def test_a_prompt_longer_than_half_of_the_context_is_cut_to_it() -> None:
    found = measured_speed(EDGE_MODEL, LlamaOptions(num_threads=1), 512)
    assert found.max_model_len // 4 < found.prompt_tokens <= found.max_model_len // 2
