"""The doctor's parts: what a CPU can do, what a build lacks, and which setting is worth keeping."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.device.build import build_advice, built_with, cpu_features, has_nvidia
from edge.device.chosen import chosen_settings
from edge.device.doctor import _locked
from edge.device.speed import memory_bandwidth, predicted_tokens_per_s
from edge.device.tune import best_of, tune
from offload.places import places
from offload.settings import EdgeSettings, Settings
from offload.settings_reading import load


def machine(root: Path, *rows: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text("\n".join(rows))
    return root


def test_only_what_every_core_has_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, "flags\t: avx avx2 fma sse", "flags\t: avx avx2 sse")
    assert cpu_features(root) == {"avx", "avx2"}


def test_an_arm_board_is_read_too(tmp_path: Path) -> None:
    root = machine(tmp_path, "Features\t: fp asimd asimddp", "CPU part\t: 0xd42")
    assert cpu_features(root) == {"asimd", "asimddp"}
    assert cpu_features(tmp_path / "nowhere") == set()


def test_a_plain_build_on_a_good_cpu_is_told_how_to_be_built() -> None:
    built = built_with("CPU : SSE3 = 1 | AVX = 1 | AVX2 = 0 | FMA = 0 |")
    (told,) = build_advice({"avx", "avx2", "fma"}, built, nvidia=False, offload=False)
    assert "AVX2, FMA" in told and "GGML_NATIVE" in told
    assert build_advice({"avx"}, built, nvidia=False, offload=False) == []


def test_a_gpu_that_the_build_cannot_use_is_told(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    assert not has_nvidia(tmp_path)
    (tmp_path / "dev/nvidiactl").touch()
    assert has_nvidia(tmp_path)
    (told,) = build_advice(set(), set(), nvidia=True, offload=False)
    assert "GGML_CUDA" in told
    assert build_advice(set(), set(), nvidia=True, offload=True) == []


def test_the_memory_bounds_the_speed() -> None:
    assert memory_bandwidth() > 1e8
    assert predicted_tokens_per_s(2_000_000_000, 10e9) == 5


@pytest.mark.parametrize(
    ("measured", "kept"),
    [({0: 10.0}, 0), ({0: 10.0, 4: 10.4}, 0), ({0: 10.0, 4: 12.0, 2: 11.0}, 4)],
)
def test_the_governor_stays_unless_it_is_clearly_slower(
    measured: dict[int, float], kept: int
) -> None:
    assert best_of(measured) == kept


def test_tuning_measures_and_writes_the_setting() -> None:
    here = places()
    found = tune(load(here.config_file), here, limit_s=0)
    assert list(found.tokens_per_s) == [0] and found.tokens_per_s[0] > 0
    assert "num_threads = 0" in here.config_file.read_text()


def test_the_choices_for_the_near_model_are_told_with_their_reasons() -> None:
    here, problems = places(), list[str]()
    chosen = {each.name: each for each in chosen_settings(load(here.config_file), here, problems)}
    assert problems == []
    assert chosen["kv_cache_dtype"].value == "f16"  # a cache of so few bytes is not worth any loss
    assert chosen["max_model_len"].value == "512 tokens" and chosen["num_gpu_layers"].value == "0"
    assert all(each.why for each in chosen.values())


def test_what_hinders_a_choice_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    settings = Settings(edge=EdgeSettings(model=str(tmp_path / "broken.gguf")))
    problems: list[str] = []
    assert chosen_settings(settings, places(), problems) == []
    assert len(problems) == 1 and "broken.gguf" in problems[0]


def test_a_home_that_is_no_folder_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path / "home"))
    (problem,) = _locked(places())
    assert "cannot be written to" in problem and "NEARFAR_HOME" in problem
