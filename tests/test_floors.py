"""The floors: a room imports only from the rooms it stands on, and torch only where it may."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STANDS_ON = {
    "backbone": set(),
    "offload": {"backbone"},
    "quantize": {"backbone"},
    "serve": {"backbone", "offload"},
    "engine": {"backbone", "offload", "quantize"},
    "edge": {"backbone", "offload", "quantize", "engine"},
    "cloud": {"backbone", "offload", "quantize", "engine"},
}
WITHOUT_TORCH = (
    "offload",
    "engine",
    "serve",
    *(
        f"edge/{p.name}"
        for p in sorted((ROOT / "edge").iterdir())
        if p.is_dir() and p.name != "small_gpu"
    ),
)
FORBIDDEN = {"pickle", "dill", "joblib", "shelve", "marshal"}


def imports(source: str) -> Iterator[str]:
    """Yield the top-level package of every import in the source, lazy ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


def arrows(room: str, source: str) -> set[str]:
    """Return the rooms this source imports that its own room does not stand on."""
    return {to for to in imports(source) if to in STANDS_ON} - STANDS_ON[room] - {room}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("room", STANDS_ON)
def test_a_room_imports_only_from_the_floors_below(room: str) -> None:
    wrong = {str(path): arrows(room, path.read_text()) for path in modules(room)}
    assert not {path: to for path, to in wrong.items() if to}


def test_a_forbidden_arrow_would_be_seen() -> None:
    assert arrows("edge", "def f():\n    from cloud.engine import x") == {"cloud"}
    assert arrows("offload", "import edge.cli") == {"edge"}
    assert arrows("serve", "from offload.engine import Engine") == set()


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_the_default_install_needs_no_torch(folder: str) -> None:
    for path in modules(folder):
        assert "torch" not in set(imports(path.read_text())), path


def test_nothing_can_unpickle() -> None:
    for room in STANDS_ON:
        for path in modules(room):
            source = path.read_text()
            assert not FORBIDDEN & set(imports(source)), path
            assert "recv_pyobj" not in source and "torch.load(" not in source, path


def test_the_command_and_the_near_side_load_without_torch() -> None:
    code = (
        "import sys, nearfar_command, edge.llama.runtime, edge.near.factory, offload.link.client, "
        "offload.link.server, offload.hybrid.hybrid; "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_loads_neither_llama_nor_numpy() -> None:
    heavy = "{'numpy', 'llama_cpp', 'zmq'}"
    code = f"import sys, nearfar_command; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
