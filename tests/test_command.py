"""The command as a person or a program uses it, on the embedded edge model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

import nearfar_command
from backbone.errors import CheckpointError
from edge.chat.terminal import why
from offload.messages import Finish, Route, Usage
from tests.in_process import Run

ROOT = Path(__file__).parents[1]


def test_a_question_is_answered_near_with_its_route(run: Run) -> None:
    status, out, _ = run("ask", "What is 17 + 25?", "--json")
    document = json.loads(out)
    assert status == 0
    assert document["answer"] == "42"
    assert document["route"]["served_by"] == "edge"
    assert document["route"]["reason"] == "no_cloud"
    assert "bytes_sent" not in document["usage"]


def test_stdin_is_read_where_there_is_no_prompt(run: Run) -> None:
    for arguments in ((), ("-",)):
        status, out, _ = run("ask", *arguments, stdin="What is the capital of France?\n")
        assert (status, out.strip()) == (0, "Paris")


def test_why_goes_to_stderr_and_the_answer_alone_to_stdout(run: Run) -> None:
    _, out, err = run("ask", "What is the capital of France?", "--why", "--offline")
    assert out == "Paris\n"
    assert "you are offline" in err and "nothing sent" in err


@pytest.mark.parametrize(
    ("typed", "found"),
    [("nearfar con", {"config", "conversations"}), ("nearfar models s", {"search", "show"})],
)
def test_the_shell_completes_commands(typed: str, found: set[str]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import nearfar_command; nearfar_command.whole_app()(prog_name='nearfar')",
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "_NEARFAR_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
        },
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == found, done.stderr


def test_a_gone_cloud_is_answered_near_and_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    monkeypatch.setenv("NEARFAR_CLOUD_CONNECT_TIMEOUT_S", "0.2")
    monkeypatch.setenv("NEARFAR_POLICY_MIN_LOGPROB", "0")
    status, out, err = run("ask", "What is 17 + 25?")
    assert (status, out) == (0, "42\n")
    rule, gone, waits = err.splitlines()
    assert "policy.privacy = cloud_ok, the default" in rule
    assert "tcp://127.0.0.1:9" in gone and "it was not sure" in waits
    status, out, _ = run("ask", "What is 17 + 25?", "--far")
    assert (status, out) == (1, "42\n")


@pytest.mark.parametrize(
    ("known", "num_bytes", "told"),
    [
        (None, 0, "may have left before the far model failed"),
        (False, 0, "may have left before the far model failed"),
        (True, 0, "nothing sent"),
        (True, 153, "153 bytes sent before the far model failed"),
    ],
)
def test_why_says_what_left_before_the_cloud_failed(
    known: bool | None, num_bytes: int, told: str
) -> None:
    failed = Route(
        served_by="edge", reason="cloud_failed", failure="it is gone", sent_is_known=known
    )
    finish = Finish(reason="stop", route=failed, usage=Usage(bytes_sent=num_bytes))
    assert why(finish).endswith(told)


def test_why_never_says_that_nothing_left_where_the_cloud_answered() -> None:
    route = Route(served_by="cloud", reason="forced_cloud")
    assert why(Finish(reason="stop", route=route)).endswith("bytes sent not counted")


def test_why_never_says_that_nothing_left_where_the_cloud_was_asked_too() -> None:
    route = Route(served_by="edge", reason="confident", sent_is_known=False)
    assert "may have left" in why(Finish(reason="stop", route=route))


def test_the_embedded_pair_is_always_listed(run: Run) -> None:
    _, out, _ = run("models", "list", "--json")
    entries = json.loads(out)
    assert [entry["runs"] for entry in entries if entry["embedded"]] == ["edge", "cloud"]
    assert all(Path(entry["path"]).exists() for entry in entries)
    assert "nearfar-edge" in run("models", "list")[1]


def test_the_doctor_finds_this_device_well(run: Run) -> None:
    _, out, _ = run("doctor", "--json")
    report = json.loads(out)
    assert report["cores"] >= 1 and report["problems"] == []
    assert "all is well" in run("doctor")[1]


def test_the_doctor_names_a_problem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "tcp://127.0.0.1:9")
    monkeypatch.setenv("NEARFAR_CLOUD_CONNECT_TIMEOUT_S", "0.2")
    _, out, _ = run("doctor")
    assert "problem" in out and "tcp://127.0.0.1:9" in out


def test_a_conversation_remembers_and_answers_commands(run: Run) -> None:
    status, out, err = run("chat", stdin="What is the capital of France?\n/why\n/new\n/quit\n")
    assert status == 0 and out == "Paris\n"
    assert "answered near" in err and "a new conversation" in err


def test_a_conversation_can_be_read_by_a_program(run: Run) -> None:
    text = "What is the capital of France?\nWhat is the capital of Italy?\n"
    _, out, _ = run("chat", "--json", stdin=text)
    answers = [json.loads(line)["answer"] for line in out.splitlines()]
    assert answers == ["Paris", "Rome"]


def test_keys_are_told_allowed_and_revoked_as_documents(run: Run) -> None:
    key = json.loads(run("link", "key", "--json")[1])["public_key"]
    assert len(key) == 40
    other = "AF{a}s>OY<DlD)2vG$U.YE}h6NXZt#R9<5XPg{$l"
    assert json.loads(run("link", "allow", "pi", other, "--json")[1]) == {"allowed": "pi"}
    assert json.loads(run("link", "revoke", "pi", "--json")[1]) == {"revoked": "pi"}


def test_a_conversation_outlives_a_mistake(run: Run) -> None:
    text = f"{'word ' * 3000}\nWhat is the capital of France?\n"
    status, out, err = run("chat", stdin=text)
    assert status == 1 and out.endswith("Paris\n"), "one of two questions came to nothing"
    assert "context" in err


def test_an_alias_is_made_and_dropped_and_both_are_said(run: Run) -> None:
    assert run("models", "alias", "fast", "embedded")[1] == "fast = embedded\n"
    assert run("models", "alias", "fast")[1] == "fast is no alias any more\n"
    assert run("models", "alias", "fast")[0] == 1


def test_both_embedded_models_can_be_shown(run: Run) -> None:
    for name in ("nearfar-edge", "nearfar-cloud"):
        document = json.loads(run("models", "show", name, "--json")[1])
        assert document["architecture"] == "qwen3" and document["parameters"]


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version")[1].startswith("nearfar ")


@pytest.mark.parametrize(
    "arguments",
    [(), ("ask",), ("chat",), ("doctor",), ("models",), ("cloud",), ("link",), ("bench",)],
)
def test_every_command_has_help(run: Run, arguments: tuple[str, ...]) -> None:
    status, out, _ = run(*arguments, "--help")
    assert status == 0 and "Usage" in out


def _commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from _commands(command, (*path, name))


def test_a_command_line_mounts_its_own_room_alone_and_help_all_of_them() -> None:
    for room in nearfar_command.ROOMS:
        told = typer.main.get_command(nearfar_command.app_of(room))
        assert tuple(told.commands) == room.names  # type: ignore[attr-defined]
        for name in room.names:
            found = typer.main.get_command(nearfar_command.app_for([name, "--help"]))
            assert tuple(found.commands) == room.names  # type: ignore[attr-defined]
    for words in ([], ["--help"], ["unheard-of"], ["--version"]):
        assert nearfar_command.app_for(words) is nearfar_command.whole_app()


FRESH = r"""
import sys, typer, nearfar_command
group = typer.main.get_command(nearfar_command.app_for(sys.argv[1:]))
found = group.commands[sys.argv[1]]
print(*sorted(found.commands) if hasattr(found, "commands") else ())
"""


@pytest.mark.parametrize("room", [each for each in nearfar_command.ROOMS if each.panel is not None])
def test_a_group_has_all_of_its_commands_in_a_fresh_process(room: nearfar_command.Room) -> None:
    (name,) = room.names
    page = Path(__file__).parents[1].joinpath("docs/commands.md").read_text(encoding="utf-8")
    written = sorted(set(re.findall(rf"^## `nearfar {name} ([\w-]+)", page, re.MULTILINE)))
    done = subprocess.run(
        [sys.executable, "-c", FRESH, name], capture_output=True, text=True, check=True
    )
    assert written and done.stdout.split() == written


def test_every_command_and_option_is_one_plain_sentence_and_every_command_takes_json() -> None:
    for path, command in _commands(typer.main.get_command(nearfar_command.whole_app())):
        told = (command.help or "").split("\n\n")[0].strip()
        assert told.endswith(".") and len(told) < 110, path
        if hasattr(command, "commands"):
            continue
        names = [name for parameter in command.params for name in parameter.opts]
        assert "--json" in names, path
        for parameter in command.params:
            words = getattr(parameter, "help", None)
            assert words and words.rstrip().endswith("."), (path, parameter.name)


def test_help_is_ready_before_anything_heavy_is_imported() -> None:
    code = "import sys, nearfar; sys.argv = ['nearfar', '--help']; " + (
        "import contextlib, io\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    nearfar.main()\n"
        "print(*sorted({n.split('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    heavy = {"numpy", "llama_cpp", "zmq", "torch", "starlette", "uvicorn", "httpx", "sqlite3"}
    assert not heavy & set(done.stdout.split()), done.stderr


def test_a_model_that_is_not_there_is_refused_as_a_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEARFAR_HOME", str(tmp_path))
    done = CliRunner().invoke(
        nearfar_command.whole_app(), ["config", "set", "edge.model", "nowhere.gguf"]
    )
    assert isinstance(done.exception, CheckpointError) and "nowhere" in str(done.exception)
    assert not (tmp_path / "config.toml").exists()
    done = CliRunner().invoke(
        nearfar_command.whole_app(), ["config", "set", "edge.draft_model", ""]
    )
    assert done.exit_code == 0
