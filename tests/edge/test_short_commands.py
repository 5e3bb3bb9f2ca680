"""The words that ollama's users type: run, pull, list, rm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backbone.errors import CheckpointError
from edge import short_commands
from edge.models.local_models import find_gguf, set_alias
from edge.models.pull import fetch_missing
from offload.config.places import places
from offload.pair import EDGE_MODEL
from tests.edge.hubs import DATA, Hub
from tests.in_process import Run


def test_run_with_a_question_answers_it(run: Run) -> None:
    status, out, _ = run("run", "embedded", "What", "is", "17 + 25?", "--offline")
    assert (status, out) == (0, "42\n")


def test_run_reads_a_piped_question_and_knows_an_alias(run: Run) -> None:
    set_alias("smol", str(EDGE_MODEL), places().models)
    status, out, _ = run("run", "smol", "--json", stdin="What is the capital of France?\n")
    assert (status, json.loads(out)["answer"]) == (0, "Paris")


def test_run_asks_a_person_before_it_fetches(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(short_commands, "_agreed", lambda name: bool(asked.append(name)))
    status, _, err = run("run", "qwen3:0.6b", "Hello")
    assert (status, asked) == (1, ["qwen3:0.6b"])
    assert "qwen3:0.6b is not here yet" in err


def test_run_fetches_nothing_offline_nor_what_no_list_has(run: Run, there: Hub) -> None:
    for words in (("qwen3:0.6b", "--offline"), ("no-such-model",)):
        status, _, err = run("run", *words, stdin="Hello")
        assert status == 1 and len(err.splitlines()) == 1
    assert not there.asked


def test_what_was_fetched_answers_to_the_name_that_was_used(there: Hub, tmp_path: Path) -> None:
    name = "me/tiny:Q8_0"
    with pytest.raises(CheckpointError):
        fetch_missing(name, tmp_path, agreed=lambda _: False)
    fetch_missing(name, tmp_path, agreed=lambda _: True)
    assert find_gguf(name, tmp_path).read_bytes() == DATA[::-1]
    there.asked.clear()
    fetch_missing(name, tmp_path, agreed=lambda _: True)
    assert not there.asked


def test_the_short_words_are_those_of_models(run: Run) -> None:
    assert run("list")[1] == run("models", "list")[1] != ""
    for words in (("rm", "embedded", "--yes"), ("pull", "no model")):
        status, _, err = run(*words)
        assert status == 1 and len(err.splitlines()) == 1


def test_without_a_service_ps_and_stop_say_how_to_start_one(run: Run) -> None:
    for words in (("ps",), ("stop", "embedded")):
        status, _, err = run(*words)
        assert status == 1 and "start it with `nearfar up`" in err
