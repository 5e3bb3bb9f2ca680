"""Wrong usage is exit status 2 in every command, told in one line before anything is done."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from backbone.errors import CheckpointError, MissingExtra, NearfarError, WrongUsage, as_typed
from edge.llama.kv_types import BYTES_PER_NUMBER
from edge.llama.kv_types import NAMES as LLAMA_NAMES
from edge.small_gpu.options import KV_BITS
from offload.config.settings import KV_NAMES, KV_STORED, Settings
from offload.config.settings_sources import put
from offload.errors import SettingsError
from tests.in_process import Run

CONTRADICTIONS = [
    (("ask", "hi", "--far", "--offline"), "--far and --offline contradict"),
    (("ask", "hi", "--far", "--local-only"), "--far and --local-only contradict"),
    (("chat", "hi", "--continue", "--resume", "ab"), "name two conversations"),
    (("chat", "hi", "--no-keep", "--continue"), "--no-keep begins a new conversation"),
    (("chat", "hi", "--no-keep", "--resume", "ab"), "--no-keep begins a new conversation"),
    (("bench", "edge", "--kv", "--draft", "small.gguf"), "leave out --draft"),
    (("bench", "edge", "--kind", "q8_0"), "add --kv"),
    (("bench", "edge", "--text", "a.txt"), "add --kv"),
    (("serve", "--assistant", "--host", "0.0.0.0"), "for this machine alone"),
    (("policy", "outbox", "--forget", "all", "--ask"), "--forget and --ask contradict"),
    (("policy", "replay", "--min-logprob", "-1", "--policy", "p.json"), "leave out --policy"),
    (("cloud", "serve", "--upstream", "http://a/v1", "--replicas", "2"), "--upstream is one"),
    (("cloud", "serve", "--model-pool", "s", "--model", "m"), "leave out the other flags"),
    (("cloud", "serve", "--tensor-parallel-size", "2", "--replicas", "2"), "shares one model"),
    (("cloud", "serve", "--gpus", "0,1"), "need --replicas or --max-replicas above 1"),
    (("quantize", "plan", "f", "--fit", "--target-bpw", "4"), "exactly one budget"),
]
VALUES = [
    (("ask", "hi", "--temperature", "-1"), "temperature"),
    (("ask", "hi", "--max-tokens", "0"), "max_tokens"),
    (("ask", "hi", "--window", "3"), "edge.window is 3"),
    (("ask", "hi", "--kv", "q9"), "edge.kv_cache_dtype is 'q9'"),
    (("policy", "replay", "--aim", "cheap"), "--aim is 'cheap'"),
    (("cloud", "serve", "--replicas", "0"), "replicas is 0"),
    (("cloud", "serve", "--engine", "max_num_seqs=0"), "max_num_seqs is 0"),
    (("cloud", "serve", "--replicas", "2", "--engine", "max_num_seqs=0"), "max_num_seqs is 0"),
    (("cloud", "serve", "--model-pool", "s", "--engine", "max_num_seqs=0"), "max_num_seqs is 0"),
    (("cloud", "bench", "--base-url", "http://a/v1", "--goodput", "ttft"), "goodput"),
    (("cloud", "bench", "--base-url", "http://a/v1", "--num-prompts", "0"), "num-prompts"),
    (("quantize", "plan", "f", "--target-bpw", "-1"), "--target-bpw is -1"),
    (("quantize", "plan", "f", "--target-bytes", "much"), "'much' is no size"),
    (("quantize", "gguf", "f", "t.gguf", "--keep", "q8_0"), "is not PATTERN=TYPE"),
]


@pytest.mark.parametrize(("arguments", "words"), CONTRADICTIONS + VALUES)
def test_what_no_run_can_follow_is_status_2_in_one_line(
    run: Run, home: Path, arguments: tuple[str, ...], words: str
) -> None:
    pytest.importorskip("torch", reason="quantize and the cloud need it")
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert words in err and err.count("\n") == 1 and "Traceback" not in err
    assert list(home.iterdir()) == [], "nothing is opened or written before"


@pytest.mark.parametrize("command", [("ask", "hi"), ("policy", "answers")])
def test_the_older_name_of_far_keeps_working_with_one_line(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    files = ("--questions", str(tmp_path / "q"), "--out", str(tmp_path / "o"))
    more = files if command[0] == "policy" else ("--offline",)
    _, _, err = run(*command, *more, "--cloud")
    assert err.startswith("nearfar: --cloud is called --far now\n") and err.count("\n") == 2


def test_with_json_wrong_usage_is_a_document_too(run: Run) -> None:
    status, out, _ = run("ask", "hi", "--far", "--offline", "--json")
    assert status == 2 and "contradict" in json.loads(out)["error"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("edge.modle", "edge.model"),
        ("model", "edge.model or cloud.model"),
        ("kv_cache_dtype", "edge.kv_cache_dtype"),
        ("egde.num_threads", "edge.num_threads"),
        ("cloud.address", "`nearfar config show` lists all"),
    ],
)
@pytest.mark.parametrize("command", [("show",), ("unset",), ("set", "1")])
def test_a_setting_that_is_none_names_those_that_were_meant(
    run: Run, home: Path, command: tuple[str, ...], name: str, meant: str
) -> None:
    verb, *value = command
    status, _, err = run("config", verb, name, *value)
    assert status == 2 and meant in err and err.count("\n") == 1
    assert not (home / "config").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("edge.kv_cache_dtype", "q9"),
        ("edge.kv_cache_dtype", "q8_0/int4"),
        ("edge.window", "7"),
        ("edge.keep_sessions", "perhaps"),
        ("policy.privacy", "open"),
        ("policy.aim", "cheap"),
        ("policy.handover", "both"),
        ("privacy.email", "keep"),
        ("privacy.countries", "Germany"),
        ("serve.log", "xml"),
        ("serve.port", "70000"),
        ("serve.max_running", "0"),
        ("quota.tokens_per_day", "-1"),
        ("cloud.url", "somewhere"),
    ],
)
def test_a_value_that_is_none_is_never_written(run: Run, home: Path, name: str, value: str) -> None:
    status, _, err = run("config", "set", name, value)
    assert status == 2 and name in err and err.count("\n") == 1
    assert not (home / "config").exists()


def test_a_file_that_was_wrong_before_is_no_wrong_usage(run: Run, home: Path) -> None:
    (home / "config").mkdir()
    (home / "config" / "config.toml").write_text("[edge]\nwindow = 7\n")
    assert run("config", "set", "edge.num_threads", "2")[0] == 1
    assert run("config", "set", "edge.window", "256")[0] == 0


@pytest.mark.parametrize("name", ["auto", "f16", "k8v4", "q8_0/q4_0", "int2"])
def test_every_way_to_store_keys_and_values_can_be_set(tmp_path: Path, name: str) -> None:
    assert put(tmp_path / "config.toml", "edge.kv_cache_dtype", name) == name


def test_the_settings_know_the_names_of_both_runtimes() -> None:
    assert set(KV_STORED) == set(BYTES_PER_NUMBER)
    assert set(KV_NAMES) == {"auto", *LLAMA_NAMES, *KV_BITS}


def test_every_default_may_be_written(tmp_path: Path) -> None:
    settings = Settings()
    for section in fields(settings):
        of_section = getattr(settings, section.name)
        for each in fields(of_section):
            value = getattr(of_section, each.name)
            if value is not None:
                text = str(getattr(value, "value", value))
                put(tmp_path / "config.toml", f"{section.name}.{each.name}", text)


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_help_says_which_ways_are_for_folders_alone(run: Run, command: str) -> None:
    told = " ".join(run(command, "--help")[1].replace("│", " ").split())
    assert "of folders, which torch runs, also int8, int4, int2" in told


def test_only_what_other_options_would_mend_is_wrong_usage() -> None:
    with pytest.raises(WrongUsage, match="mend it"), as_typed():
        raise SettingsError("mend it")
    for error in (MissingExtra("torch", "cloud"), CheckpointError("damaged")):
        with pytest.raises(NearfarError) as kept, as_typed():
            raise error
        assert kept.value is error
