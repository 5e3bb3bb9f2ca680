"""What the Dockerfiles copy and install is there, and nothing else travels into an image."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="no reader of TOML")

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "examples" / "deploy").glob("Dockerfile.*"))
EXTRAS = re.compile(r"'\.\[([\w,]+)\]'")
every_image = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.suffix)


def steps(path: Path) -> list[tuple[str, str]]:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def ignored() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@every_image
def test_what_is_copied_is_there(path: Path) -> None:
    stages: list[str] = []
    for word, rest in steps(path):
        words = rest.split()
        if word == "FROM" and "AS" in words:
            stages.append(words[-1])
        if word == "COPY" and words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages
        elif word == "COPY":
            assert all((ROOT / source).exists() for source in words[:-1])


@every_image
def test_each_shell_line_can_be_parsed(path: Path) -> None:
    for word, rest in steps(path):
        if word == "RUN":
            done = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr


@every_image
def test_the_extras_that_are_installed_are_ours(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = path.read_text(encoding="utf-8")
    asked = {extra for found in EXTRAS.findall(text) for extra in found.split(",")}
    assert asked and asked <= set(project["optional-dependencies"])


def test_environments_history_and_builds_stay_out_of_the_image() -> None:
    assert {".git", ".venv", "build"} <= set(ignored())


def test_nothing_that_the_package_is_made_of_is_left_out() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    packages = {name.rstrip("*") for name in tool["setuptools"]["packages"]["find"]["include"]}
    needed = packages | {"pyproject.toml", "README.md", "nearfar.py", "nearfar_command.py"}
    assert not needed & set(ignored()) and all((ROOT / name).exists() for name in needed)


@every_image
def test_llama_cpp_is_built_for_any_cpu_of_its_kind(path: Path) -> None:
    if path.suffix == ".jetson":
        pytest.skip("a Jetson's image is built on it, and all Jetsons of a kind have one CPU")
    flags = [rest for word, rest in steps(path) if word == "ENV" and rest.startswith("CMAKE_ARGS=")]
    assert len(flags) == 1 and "-DGGML_NATIVE=off" in flags[0]
