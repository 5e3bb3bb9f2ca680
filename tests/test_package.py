"""What is installed: the wheel holds all that runs and nothing else, and runs outside the clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _setuptools() -> int:
    try:
        return int(version("setuptools").split(".")[0])
    except ModuleNotFoundError:
        return 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(_setuptools() < 77, reason="setuptools 77 or newer builds the wheel"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what git knows here, built in a copy: a build leaves folders behind."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no git here: the files that belong to the project are not known")
    copy, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in listed.stdout.decode().split("\0"):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "-w", str(out), "."], cwd=copy, check=True
    )
    (found,) = out.glob("*.whl")
    return found


def test_the_wheel_holds_the_pair_the_page_and_every_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for needed in (
        "offload/pair/nearfar-edge.gguf",
        "offload/pair/nearfar-cloud/model.safetensors",
        "offload/pair/policy.json",
        "offload/pair/policy.prior.npz",
        "edge/assistant/page/index.html",
        "quantize/calibration_prose.md",
        "nearfar.py",
        "nearfar_command.py",
        "nearfar_serving.py",
    ):
        assert needed in names
    rooms = ("backbone", "quantize", "offload", "engine", "edge", "cloud", "serve")
    modules = {path.relative_to(ROOT).as_posix() for room in rooms for path in _kept(ROOT / room)}
    assert modules - names == set()


def _kept(room: Path) -> list[Path]:
    kinds = (".py", ".js", ".css", ".html", ".svg", ".json", ".gguf", ".npz", ".safetensors")
    listed = subprocess.run(
        ["git", "ls-files", "-z", str(room)], cwd=ROOT, capture_output=True, check=True
    )
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.suffix in kinds and path.is_file()]


def test_the_wheel_holds_no_test_and_no_script(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert not tops & {"tests", "scripts", "benchmarks", "examples", "docs", "build"}


def test_an_empty_environment_has_the_command_once_the_wheel_is_installed(
    wheel: Path, tmp_path: Path
) -> None:
    place = tmp_path / "env"
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    # What it needs is taken from here: to install that takes minutes of a compiler.
    found = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    needed = [each for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]
    Path(found.stdout.strip(), "needed.pth").write_text("\n".join(needed))
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        command = [str(place / "bin" / "nearfar"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("ask", "What is the capital of France?", "--offline") == "Paris\n"
    assert json.loads(run("list", "--json"))[0]["path"].startswith(str(place))


def test_what_is_installed_answers_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "nearfar", "ask", "What is the capital of France?", "--json"]
        if sys.version_info >= (3, 11)
        else [sys.executable, "-m", "nearfar", "ask", "What is the capital of France?", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["answer"] == "Paris"
    shown = subprocess.run(
        [sys.executable, "-c", "import nearfar; print(nearfar.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert shown.stdout.startswith(str(site))
