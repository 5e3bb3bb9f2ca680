from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nearfar_command import whole_app


def _run(*arguments: str) -> dict:
    result = CliRunner().invoke(whole_app(), ["bench", "edge", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_speed_is_one_document(home: Path) -> None:
    report = _run("--prompt-tokens", "64", "--answer-tokens", "16")
    assert report["prompt_tokens"] > 0 and report["answer_tokens"] >= 1
    for name in ("load_s", "first_token_s", "prefill_tokens_per_s", "decode_tokens_per_s"):
        assert report[name] > 0
    assert report["memory_bytes"] > report["size_bytes"]


def test_a_fresh_machine_can_be_timed_as_it_is(home: Path) -> None:
    report = _run()
    assert report["prompt_tokens"] > 100, "though the embedded model's tokens are short"


def test_drafts_are_timed_beside_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, always_drafted: None
) -> None:
    # Blocked or half-precision caches round a step of several tokens otherwise than one of one.
    monkeypatch.setenv("NEARFAR_EDGE_KV_CACHE_DTYPE", "f32")
    report = _run("--draft", "embedded", "--answer-tokens", "16")
    drafts = report["drafts"]
    assert drafts["same_answers"] and drafts["model"] == "embedded"
    assert 0 < drafts["accepted"] <= drafts["proposed"]
    assert drafts["acceptance"] == drafts["accepted"] / drafts["proposed"]
    assert drafts["ratio"] == pytest.approx(
        report["decode_tokens_per_s"] / drafts["decode_tokens_per_s_without"]
    )


def test_a_busy_machine_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for busy, told in ((0.0, False), (5.0, True)):
        monkeypatch.setattr("edge.device.cpu_load.OthersLoad", lambda b=busy: lambda: b)
        monkeypatch.setattr("edge.device.cpu_load.WIDE_SPREAD", 1e9)
        for arguments in (["--answer-tokens", "8"], ["--kv", "--prompt-tokens", "40"]):
            found = _run(*arguments)
            assert found["others_busy_cores"] == busy
            assert ("measure again" in (found["warning"] or "")) == told
            shown = CliRunner().invoke(whole_app(), ["bench", "edge", *arguments]).stdout
            assert ("warning  other programs kept 5.0 of" in shown) == told


def test_each_way_to_store_keys_and_values_is_a_row(tiny_gguf: Path, home: Path) -> None:
    found = _run("--kv", "--model", str(tiny_gguf), "--prompt-tokens", "64")
    names = [row["name"] for row in found["rows"]]
    compressed = ["q8_0/f16", "f16/q8_0", "q8_0", "q5_1", "q8_0/q4_0", "q4_0", "iq4_nl"]
    assert names == ["f16", *compressed]
    assert found["model"] == tiny_gguf.name


def test_kinds_and_text_can_be_chosen(tiny_gguf: Path, tmp_path: Path, home: Path) -> None:
    (tmp_path / "text").write_text("a text of some words")
    chosen = ("--model", str(tiny_gguf), "--kv", "--kind", "f16", "--kind", "q8_0")
    found = _run(*chosen, "--text", str(tmp_path / "text"))
    assert [row["name"] for row in found["rows"]] == ["f16", "q8_0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--kv", "--kind", "q9"), "q9"),
        (("--kv", "--text", "nowhere"), "nowhere cannot be read"),
        (("--model", "nowhere"), "no model 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], words: str, home: Path) -> None:
    result = CliRunner().invoke(whole_app(), ["bench", "edge", *arguments])
    assert result.exit_code != 0 and words in str(result.exception)
