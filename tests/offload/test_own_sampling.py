"""Own sampling: where it comes from, and what a request's own values leave of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offload.errors import RequestError
from offload.messages import Request, Sampling, sampling_at
from offload.own_sampling import (
    EVERYDAY,
    GREEDY,
    OwnSampling,
    sampled,
    sampling_of_folder,
    sampling_of_gguf,
)
from offload.pair import CLOUD_MODEL


def asked(own: OwnSampling, sampling: Sampling) -> Sampling:
    return own.settled(Request(prompt="?", sampling=sampling)).sampling


def test_values_that_are_given_go_before_the_models_own() -> None:
    own = OwnSampling(temperature=0.6, top_p=0.95, top_k=20)
    settled = asked(own, Sampling(own=True, top_p=0.5, seed=3))
    assert settled == Sampling(temperature=0.6, top_p=0.5, top_k=20, seed=3)


def test_a_given_temperature_leaves_nothing_of_the_models_own() -> None:
    settled = asked(EVERYDAY, sampling_at(0.3, seed=1))
    assert settled == Sampling(temperature=0.3, seed=1)


@pytest.mark.parametrize("sampling", [sampling_at(0.0), Sampling()])
def test_greedy_stays_greedy_and_draws_no_seed(sampling: Sampling) -> None:
    assert asked(EVERYDAY, sampling) == Sampling()


def test_nothing_is_drawn_unasked_under_a_schema() -> None:
    schema = {"type": "object"}
    settled = asked(EVERYDAY, Sampling(own=True, json_schema=schema))
    assert settled.temperature == 0.0


def test_whatever_is_drawn_has_a_seed_that_can_be_told() -> None:
    settled = asked(EVERYDAY, Sampling(own=True))
    told = sampled(settled)
    assert told is not None
    assert told.seed is not None
    assert (told.temperature, told.top_p, told.min_p) == (0.7, 0.9, 0.05)
    assert sampled(Sampling()) is None


def test_a_temperature_and_the_models_own_contradict_each_other() -> None:
    with pytest.raises(RequestError, match="choose one"):
        Sampling(own=True, temperature=0.5)


def test_the_metadata_of_a_gguf_file_goes_before_its_name() -> None:
    metadata = {"general.sampling.temp": "0.300000", "general.sampling.top_k": "40"}
    found = sampling_of_gguf(lambda key: metadata.get(key, ""), "Qwen3 0.6B")
    assert found == OwnSampling(temperature=0.3, top_k=40)


@pytest.mark.parametrize(
    ("name", "temperature"),
    [
        ("Qwen3 0.6B", 0.6),
        ("Qwen_Qwen3-0.6B-Q4_K_M", 0.6),
        ("google_gemma-3-1b-it", 1.0),
        ("Llama 3.2 1B Instruct", 0.6),
        ("nearfar-edge", 0.0),
        ("Qwen2.5 Coder 0.5B", 0.7),
        ("", 0.7),
    ],
)
def test_a_known_family_is_found_by_the_name_of_its_file(name: str, temperature: float) -> None:
    assert sampling_of_gguf(lambda _: "", name).temperature == temperature


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, (0.6, 0.9)),
        ({"do_sample": True, "top_p": 0.95, "top_k": 64}, (1.0, 0.95)),
        ({"do_sample": False, "temperature": 0.6}, (0.0, 1.0)),
        ({"eos_token_id": 0}, (0.7, 0.9)),
        ({"temperature": -3}, (0.7, 0.9)),
        ([], (0.7, 0.9)),
    ],
)
def test_a_folder_recommends_by_its_generation_config(
    tmp_path: Path, config: object, expected: tuple[float, float]
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    found = sampling_of_folder(tmp_path)
    assert (found.temperature, found.top_p) == expected


def test_what_a_folder_recommends_and_cannot_be_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "generation_config.json").write_text('{"temperature": 99}')
    assert sampling_of_folder(tmp_path) == EVERYDAY
    assert "left out" in caplog.text


def test_the_pair_that_ships_is_greedy_on_both_sides() -> None:
    assert sampling_of_gguf(lambda _: "", "nearfar-edge") == GREEDY
    assert sampling_of_folder(CLOUD_MODEL) == GREEDY
