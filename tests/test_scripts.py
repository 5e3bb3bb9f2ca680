"""The scripts that run the tests: one room of them, or all, with none left out."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone with one room, whose python prints what it is given."""
    for name, text in (("scripts/setup", ""), (".venv/bin/python", 'echo "$@"')):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts" / "test")
    (tmp_path / "tests" / "offload" / "link").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ((), "-m pytest"),
        (("offload/link",), "-m pytest tests/offload/link"),
        (("-q", "offload", "-k", "a room"), "-m pytest -q tests/offload -k a room"),
        (("tests/offload",), "-m pytest tests/offload"),
    ],
)
def test_a_room_is_named_as_the_code_names_it(
    clone: Path, given: tuple[str, ...], run: str
) -> None:
    done = subprocess.run(
        [clone / "scripts" / "test", *given], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{run}\n"


def test_all_tests_are_in_one_half_and_only_one() -> None:
    script = (ROOT / "scripts" / "test_all").read_text()
    halves = re.findall(r"^\w+=\((.*)\)$", script, re.MULTILINE)
    named = " ".join(halves).split()
    rooms = {
        f"tests/{path.name}" for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py"))
    }
    assert len(halves) == 2 and len(named) == len(set(named))
    assert set(named) == rooms | {"tests/test_*.py"}
