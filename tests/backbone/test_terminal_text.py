"""All text for people goes one way, and nothing in it commands a terminal."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from backbone.terminal_text import echo, echo_json, printable, readable

ROOT = Path(__file__).parents[2]
ROOMS = ("backbone", "offload", "engine", "edge", "quantize", "cloud", "serve")
# What a process of our own reads from another one, and the place itself.
OTHERS = {
    "backbone/terminal_text.py",
    "engine/torch/tp_worker.py",
    "engine/torch/memory_probe.py",
    "quantize/isolated_evaluation.py",
}
WRITERS = ("print", "typer.echo", "typer.secho", "click.echo")
HOSTILE = [
    "\x1b]52;c;cm0gLXJmIH4=\x07",  # the clipboard
    "\x1b]0;root@bank\x1b\\",  # the title
    "\x1b[2J\x1b[H",  # the screen
    "\x9b2J",  # the same in one character
    "\x90q\x9c",
    "\x08\x08\x08\rnothing to see",
    "\x1b[8m",
    "\x7f",
]


def test_no_module_writes_to_a_terminal_by_another_way() -> None:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    files += ROOT.glob("nearfar*.py")
    names = {str(path.relative_to(ROOT)): path for path in files}
    assert set(names) >= OTHERS
    found = [
        f"{name}:{node.lineno}"
        for name, path in names.items()
        if name not in OTHERS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and _writes(ast.unparse(node.func))
    ]
    assert found == []


def _writes(called: str) -> bool:
    return called in WRITERS or called in ("sys.stdout.write", "sys.stderr.write")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_text_commands_a_terminal(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    echo(f"before {text} after\n\tend")
    echo(text, err=True)
    out, err = capsys.readouterr()
    assert out.startswith("before ") and out.endswith("after\n\tend\n")
    assert all(character.isprintable() or character in "\n\t" for character in out + err)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_document_keeps_what_it_escapes(capsys: pytest.CaptureFixture[str], text: str) -> None:
    echo_json(json.dumps({"text": text}, ensure_ascii=False))
    out, _ = capsys.readouterr()
    assert json.loads(out) == {"text": text}
    assert out.rstrip("\n").isprintable()


def test_bytes_that_are_no_text_are_marked_and_can_be_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = b"mod\xffel".decode("utf-8", "surrogateescape")
    assert printable(name) == readable(name) == "mod\N{REPLACEMENT CHARACTER}el"
    echo(name)
    echo_json(json.dumps({"name": name}, ensure_ascii=False))
    text, document = capsys.readouterr().out.splitlines()
    assert text == "mod\N{REPLACEMENT CHARACTER}el" and json.loads(document) == {"name": name}


def test_readable_text_keeps_what_a_program_means_by_its_characters() -> None:
    assert readable("a\x1b[1m\tb\r\n") == "a\x1b[1m\tb\r\n"
