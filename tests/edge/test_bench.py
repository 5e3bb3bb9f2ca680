from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nearfar import app


def _run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["bench", "edge", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_speed_is_one_document(home: Path) -> None:
    report = _run("--prompt-tokens", "64", "--answer-tokens", "16")
    assert report["prompt_tokens"] > 0 and report["answer_tokens"] >= 1
    for name in ("load_s", "first_token_s", "prefill_tokens_per_s", "decode_tokens_per_s"):
        assert report[name] > 0
    assert report["memory_bytes"] > report["size_bytes"]


def test_each_way_to_store_keys_and_values_is_a_row(tiny_gguf: Path, home: Path) -> None:
    found = _run("--kv", "--model", str(tiny_gguf), "--prompt-tokens", "64")
    names = [row["name"] for row in found["rows"]]
    assert names == ["f16", "q8_0", "q5_1", "q8_0/q4_0", "q4_0", "iq4_nl"]
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
    result = CliRunner().invoke(app, ["bench", "edge", *arguments])
    assert result.exit_code != 0 and words in str(result.exception)
