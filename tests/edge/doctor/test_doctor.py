"""The doctor's parts: what a CPU can do, what a build lacks, and what stops every answer."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest

from backbone.errors import NearfarError
from edge.device.llama_build import build_advice, built_with, cpu_features, has_nvidia, require_cpu
from edge.doctor.chosen_settings import chosen_settings, when_it_pays
from edge.doctor.doctor import _locked, examine
from edge.doctor.findings import show
from edge.llama.speed import memory_bandwidth, predicted_tokens_per_s
from engine.engine_choice import CHOICES_FILE, Choice, Way, keep_choice
from offload.config.places import places
from offload.config.settings import EdgeSettings, Settings
from offload.config.settings_reading import load


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


def test_what_ails_the_device_but_stops_nothing_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    monkeypatch.setenv("NEARFAR_CLOUD_CONNECT_TIMEOUT_S", "0.2")
    assert show(examine(), as_json=False) == 0
    told = capsys.readouterr().out
    assert "problem   nothing answers at tcp://127.0.0.1:9" in told and "stops" not in told


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NEARFAR_EDGE_MODEL", "nosuch", "there is no model 'nosuch'"),
        ("NEARFAR_EDGE_KV_CACHE_DTYPE", "q9", "kv_cache_dtype is 'q9'"),
        ("NEARFAR_EDGE_NUM_THREADS", "many", "a whole number"),
        ("NEARFAR_EDGE_WINDOW", "x", "edge.window is 'x'"),
    ],
)
def test_what_stops_every_answer_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    words: str,
) -> None:
    monkeypatch.setenv(name, value)
    report = examine()
    assert show(report, as_json=False) == show(report, as_json=True) == 1
    told, document = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert words in told and words in json.loads(document)["stops"][0]
    assert "all is well" not in told


def test_the_choices_for_the_near_model_are_told_with_their_reasons() -> None:
    here, problems = places(), list[str]()
    chosen = {each.name: each for each in chosen_settings(load(here.config_file), here, problems)}
    assert problems == []
    assert chosen["kv_cache_dtype"].value == "f16"  # a cache of so few bytes is not worth any loss
    assert chosen["max_model_len"].value == "512 tokens" and chosen["num_gpu_layers"].value == "0"
    assert all(each.why for each in chosen.values())


def test_a_draft_model_is_told_with_what_it_takes(stories_gguf: Path) -> None:
    fit, problems = Settings(edge=EdgeSettings(draft_model="embedded")), list[str]()
    chosen = {each.name: each for each in chosen_settings(fit, places(), problems)}
    why = chosen["draft_model"].why  # as large as the model itself
    assert "MB beside" in why and "cannot pay" in why and problems == []
    unfit = Settings(edge=EdgeSettings(draft_model=str(stories_gguf)))
    assert chosen_settings(unfit, places(), problems) == []
    assert "another vocabulary" in problems[0]


def test_a_small_draft_model_pays_where_enough_of_its_guesses_are_right() -> None:
    assert when_it_pays(0.1) == "by its size pays where more than 45% of its guesses are right"
    assert "a tenth as large" in when_it_pays(0.65)


def test_what_hinders_a_choice_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    settings = Settings(edge=EdgeSettings(model=str(tmp_path / "broken.gguf")))
    problems: list[str] = []
    assert chosen_settings(settings, places(), problems) == []
    assert len(problems) == 1 and "broken.gguf" in problems[0]


def test_a_disk_that_is_nearly_full_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9 - 5_000_000, 5_000_000))
    (problem,) = _locked(places())
    assert "has 5 MB left" in problem and "NEARFAR_HOME" in problem


def test_a_home_that_is_no_folder_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path / "home"))
    (problem,) = _locked(places())
    assert "is a file where a folder must be" in problem and "NEARFAR_HOME" in problem


def test_settings_that_cannot_be_read_are_said_once_and_choose_nothing() -> None:
    file = places().config_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("[edge")
    report = examine()
    assert len(report.stops) == 1 and report.chosen == []


def test_what_auto_was_measured_to_mean_for_torch_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    way = Way(dtype="bfloat16", attention_backend="torch")
    seconds = {"float32/torch": {"1x64": 2.0}, "bfloat16/torch": {"1x64": 1.0}}
    choice = Choice(way=way, model="SmolLM2", seconds=seconds)
    keep_choice(places().cache / CHOICES_FILE, "a", choice)
    show(examine(), as_json=False)
    told = "auto      SmolLM2: bfloat16, attention torch, measured here; float32/torch 2.00x"
    assert told in capsys.readouterr().out


INFO = "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | LTO = 1"


@pytest.mark.parametrize(
    ("flags", "lacking"),
    [
        ("pni ssse3 avx avx2 avx512f avx512_vnni", None),
        ("pni ssse3 avx avx2", "AVX512, AVX512_VNNI"),
        ("pni ssse3", "AVX, AVX2, AVX512, AVX512_VNNI"),
        (None, None),
    ],
)
def test_a_build_for_another_cpu_is_told_before_it_dies_of_it(
    tmp_path: Path, flags: str | None, lacking: str | None
) -> None:
    if flags is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")
    if lacking is None:
        require_cpu(INFO, tmp_path)
        return
    with pytest.raises(NearfarError, match=f"with {lacking}, which this one has not; .*NATIVE=off"):
        require_cpu(INFO, tmp_path)
