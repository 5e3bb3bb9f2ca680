"""Every example runs as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from offload.policy.fitting.questions import read_questions

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("script", "words"),
    [("ask_near.py", "Paris"), ("own_policy.py", "17   (edge)")],
)
def test_an_example_runs(script: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, f"examples/{script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_the_readmes_python_runs() -> None:
    readme = (ROOT / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and "Paris" in done.stdout, done.stderr


def test_every_example_is_named_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    files = [path for path in (ROOT / "examples").rglob("*") if path.is_file()]
    examples = [path for path in files if "__pycache__" not in path.parts]
    assert len(examples) > 8
    names = {path.name: f"{path.stem}." for path in examples}
    assert [name for name, start in names.items() if name not in tests and start not in tests] == []


def test_the_bank_of_questions_can_be_read_and_has_its_splits() -> None:
    bank = ROOT / "examples" / "questions.jsonl"
    splits = [len(read_questions(bank, split=name)) for name in ("calibration", "test")]
    assert sum(splits) == len(read_questions(bank)) == 720
    assert splits == [480, 240]
