"""The public names of nearfar: lazy, typed, documented, and all that the examples import."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nearfar
from backbone.errors import MissingExtra, NearfarError
from offload.engine import AnswerStream
from offload.messages import Delta, Finish, Message, Request
from offload.pair import CLOUD_MODEL, EDGE_MODEL

ROOT = Path(__file__).parents[1]
OURS = {"backbone", "cloud", "edge", "engine", "offload", "quantize", "serve", "nearfar_command"}
PAGES = ("README.md", "docs/python.md")
PROMISED = "Request Message Delta Finish open_near open_far Hybrid LlamaEngine CloudEngine quantize"


def _blocks() -> list[str]:
    """Return the Python of the pages that tell of the API."""
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in PAGES]
    return [code for text in texts for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def _packages(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with the files that the page names."""
    (tmp_path / "model.gguf").symlink_to(EDGE_MODEL)
    (tmp_path / "checkpoint").symlink_to(CLOUD_MODEL)
    return tmp_path


def test_every_public_name_can_be_imported_and_no_other() -> None:
    assert set(nearfar.__all__) >= {"ask", *PROMISED.split()}
    assert all(getattr(nearfar, name) is not None for name in nearfar.__all__)
    assert dir(nearfar) == nearfar.__all__ == sorted(nearfar.__all__)
    with pytest.raises(AttributeError, match="nearfar has no answer; it has Answer, "):
        _ = nearfar.answer  # type: ignore[attr-defined]


def test_the_import_alone_loads_no_room() -> None:
    code = f"import sys, nearfar; print(sorted({OURS | {'typer', 'msgspec'}} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_examples_and_pages_import_nearfar_alone() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "examples").rglob("*.py")]
    assert len(sources) >= 3 and len(_blocks()) >= 6
    for source in (*sources, *_blocks()):
        assert not OURS & set(_packages(source)), source


@pytest.mark.slow
def test_the_python_of_the_pages_runs(models: Path) -> None:
    each = [f"exec({code!r}, {{'__name__': '__main__'}})" for code in _blocks()]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(each)],
        cwd=models,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Paris") == 4


@pytest.mark.slow
def test_a_type_checker_knows_every_public_name(tmp_path: Path) -> None:
    for number, code in enumerate(_blocks()):
        (tmp_path / f"block_{number}.py").write_text(code)
    (tmp_path / "wrong.py").write_text("import nearfar\nnearfar.ask(1)\nnearfar.asc('x')\n")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "examples", *map(str, sorted(tmp_path.iterdir()))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = [line.partition(": ")[2] for line in done.stdout.splitlines() if "error:" in line]
    assert len(found) == 2, done.stdout + done.stderr
    assert '"ask" has incompatible type "int"' in found[0] and '"asc"' in found[1]


def test_ask_answers_near_and_says_so() -> None:
    answer = nearfar.ask("What is the capital of France?")
    assert (answer.text, answer.thoughts) == ("Paris", "")
    assert answer.finish.route is not None and answer.finish.route.served_by == "edge"


async def test_ask_can_be_called_where_an_event_loop_runs() -> None:
    assert nearfar.ask("What is the capital of France?", offline=True).text == "Paris"


def test_a_model_that_is_not_there_is_one_line() -> None:
    with pytest.raises(NearfarError, match=r"nowhere\.gguf"):
        nearfar.ask("What?", model="nowhere.gguf")


def test_without_a_cloud_there_is_no_far_side() -> None:
    assert nearfar.open_far() is None


def test_the_far_side_is_behind_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARFAR_CLOUD_URL", "https://127.0.0.1:9/v1")
    monkeypatch.setenv("NEARFAR_CLOUD_MODEL", "far")
    far = nearfar.open_far()
    request = nearfar.Request(
        messages=(nearfar.Message(role="user", content="Mine"),),
        privacy=nearfar.Privacy.LOCAL_ONLY,
    )

    async def ask() -> nearfar.Answer:
        assert far is not None
        return await nearfar.collect(far.generate(request))

    with pytest.raises(NearfarError, match="local_only"):
        asyncio.run(ask())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloud.engine.engine", None)
    monkeypatch.delitem(vars(nearfar), "CloudEngine", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install 'nearfar\[cloud\]'"):
        _ = nearfar.CloudEngine


async def test_collect_leaves_out_what_was_withdrawn_and_tells_thoughts_apart() -> None:
    async def stream() -> AnswerStream:
        yield Delta(text="Lyon", source="edge")
        yield Delta(text="<think>France</think>", source="cloud", replaces=True)
        yield Delta(text="Paris")
        yield Finish(reason="stop")

    answer = await nearfar.collect(stream())
    assert (answer.text, answer.thoughts, answer.finish.reason) == ("Paris", "France", "stop")


def test_the_words_are_those_of_the_rooms() -> None:
    assert (nearfar.Request, nearfar.Message) == (Request, Message)
