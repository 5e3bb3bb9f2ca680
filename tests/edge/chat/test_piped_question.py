"""A question comes as an argument, through a pipe, or both; bytes that are no text stop nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.chat import question_text

ROOT = Path(__file__).parents[3]


def nearfar(
    *arguments: str | bytes, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "nearfar", *arguments]
    given = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, **given)  # type: ignore[call-overload,no-any-return]


def asked(monkeypatch: pytest.MonkeyPatch, prompt: str | None, text: bytes) -> str:
    """Return the question that a prompt and a pipe with this text make."""
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    with open(reading, encoding="utf-8") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        return question_text.question(prompt)


def test_piped_text_and_a_prompt_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    question = asked(monkeypatch, "why?", b"disk full\n```\nend\n")
    assert question == "piped text:\n````\ndisk full\n```\nend\n````\n\nwhy?"


@pytest.mark.parametrize("text", [b"", b" \n\n"])
def test_an_empty_pipe_adds_nothing(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    assert asked(monkeypatch, "why?", text) == "why?"


@pytest.mark.parametrize("prompt", [None, "-"])
def test_piped_text_alone_is_the_question(
    monkeypatch: pytest.MonkeyPatch, prompt: str | None
) -> None:
    assert (
        asked(monkeypatch, prompt, "\ufeffWie hei\u00dft das?\n".encode()) == "Wie hei\u00dft das?"
    )


def test_bytes_that_are_not_utf_8_are_replaced_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "caf\N{REPLACEMENT CHARACTER}\n" in asked(monkeypatch, "why?", b"caf\xe9\n")
    assert "not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [("ask", "--offline"), ("chat", "--offline", "--no-keep"), ("ask", "--offline", "why?")],
)
def test_a_pipe_of_any_bytes_is_answered(arguments: tuple[str, ...]) -> None:
    done = nearfar(*arguments, stdin=b"caf\xe9 \xff\xfe?\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and b"fault" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "--offline", b"caf\xe9?"),
        ("ask", "--offline", "-s", b"be n\xefce", "hello"),
        ("chat", "--offline", "--no-keep", b"caf\xe9?"),
        ("ask", "--offline", "-m", b"m\xff", "hello"),
        ("ask", "--offline", "-f", b"m\xff", "hello"),
        ("models", "show", b"m\xff"),
        ("models", "alias", b"m\xff", "embedded"),
        ("models", "remove", "--yes", b"m\xff"),
        ("models", "pull", b"m\xff/x"),
        ("conversations", "search", b"m\xff"),
        ("config", "set", "edge.model", b"m\xff"),
        ("quantize", "gguf", b"m\xff", b"n\xff.gguf"),
    ],
)
def test_an_argument_of_any_bytes_is_one_line_at_most(arguments: tuple[str | bytes, ...]) -> None:
    done = nearfar(*arguments)
    assert b"fault of nearfar" not in done.stderr and b"Traceback" not in done.stderr
    assert len(done.stderr.decode().splitlines()) <= 1


def test_binary_data_is_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    done = nearfar("ask", "--offline", "what is this?", stdin=b"GGUF\0\0\0")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"is not text" in done.stderr


def test_a_model_whose_name_is_no_text_is_listed_shown_and_asked(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/models/na\xffme.gguf"
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write((ROOT / "offload/pair/nearfar-edge.gguf").read_bytes())
    for arguments in (("models", "list"), ("models", "list", "--json"), ("models", "show", path)):
        done = nearfar(*arguments)
        assert done.returncode == 0, done.stderr
    done = nearfar("ask", "--offline", "--json", "-m", path, "hello")
    assert b"fault of nearfar" not in done.stderr and done.returncode == 0, done.stderr
