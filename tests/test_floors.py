"""The floors: what each room and each folder may import, with no circle, and torch where it may."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
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
# From the ground up: the folders of its room that a folder may import beside the room's own files.
MAY_IMPORT = {
    "offload/pair": set(),
    "offload/documents": set(),
    "offload/divide": {"documents"},
    "offload/tool_calls": set(),
    "offload/egress/privacy": set(),
    "offload/config": {"egress/privacy"},
    "offload/egress/ledger": {"config"},
    "offload/upstream": set(),
    "offload/link": {"config"},
    "offload/policy/serving": {"egress/ledger", "egress/privacy"},
    "offload/egress": {"config", "egress/ledger", "egress/privacy", "link", "policy/serving"},
    "offload/hybrid": {
        *{"config", "egress", "egress/ledger", "egress/privacy", "link", "upstream"},
        "policy/serving",
    },
    "offload/policy/fitting": {"egress/ledger", "hybrid", "link", "policy/serving"},
    "offload/policy/learning": {"config", "hybrid", "policy/fitting", "policy/serving"},
    "offload/commands": {
        *{"config", "egress", "egress/ledger", "egress/privacy", "hybrid", "link", "pair"},
        *{"policy/fitting", "policy/learning", "policy/serving"},
    },
    "serve/batch": set(),
    "serve/ollama": set(),
    "engine/torch/kv": set(),
    "engine/torch/attention": {"torch/kv"},
    "engine/torch": {"torch/attention", "torch/kv"},
    "edge/device": set(),
    "edge/llama": {"device"},
    "edge/small_gpu": {"device", "llama"},
    "edge/models": {"llama"},
    "edge/near": {"device", "llama", "models", "small_gpu"},
    "edge/conversations": set(),
    "edge/documents": {"conversations", "models", "near"},
    "edge/tools": {"documents"},
    "edge/chat": {"conversations", "documents", "models", "near", "tools"},
    "edge/assistant": {"chat", "conversations", "documents", "models", "near", "tools"},
    "edge/bench": {"chat", "device", "llama", "models", "near"},
    "edge/doctor": {"device", "llama", "models", "near"},
    "edge": {
        *{"assistant", "bench", "chat", "conversations", "doctor", "documents", "models"},
        "near",
    },
    "cloud/engine": set(),
    "cloud/bench": set(),
    "cloud/fleet": {"engine"},
    "cloud": {"bench", "engine", "fleet"},
}
# Their own files are the words, the OpenAI endpoint and what needs no torch; those of edge and
# cloud are the commands.
BELOW_ITS_FOLDERS = {"offload", "serve", "engine"}
TWICE = {
    "CalibrationOptions": "a policy's and a quantizer's",
    "ModelList": "read from an upstream, and written by serve",
    "Sampler": "the rows of a torch step, and one answer of llama.cpp's",
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
        if (ROOT / "engine/torch") not in path.parents:
            source = path.read_text()
            assert "torch" not in set(imports(source)), path
            assert not [to for to in imported(source) if to.startswith("engine.torch")], path


def test_nothing_can_unpickle() -> None:
    for room in STANDS_ON:
        for path in modules(room):
            source = path.read_text()
            assert not FORBIDDEN & set(imports(source)), path
            assert "recv_pyobj" not in source and "torch.load(" not in source, path


def test_the_command_and_the_near_side_load_without_torch() -> None:
    code = (
        "import sys, nearfar_command, edge.llama.runtime, edge.near.factory, offload.link.client, "
        "offload.link.server, offload.hybrid.hybrid; nearfar_command.whole_app(); "
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_help_loads_neither_llama_nor_numpy() -> None:
    heavy = "{'numpy', 'llama_cpp', 'zmq'}"
    code = (
        "import sys, nearfar_command; nearfar_command.whole_app(); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@cache
def files() -> dict[str, Path]:
    """Return every module of every room by its dotted name."""
    return {_dotted(path): path for room in STANDS_ON for path in modules(room)}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(source: str) -> Iterator[str]:
    """Yield the modules that a source imports, lazily and for types, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in files() else node.module


@cache
def graph() -> dict[str, set[str]]:
    """Return which modules each module imports, but for the arrows that are being removed."""
    return {
        name: {
            to for to in imported(path.read_text(encoding="utf-8")) if to in files() and to != name
        }
        for name, path in files().items()
    }


def folder(name: str) -> str:
    return files()[name].parent.relative_to(ROOT).as_posix()


def folders() -> dict[str, set[str]]:
    """Return which other folders each folder's modules import."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tos in graph().items():
        found[folder(name)] |= {folder(to) for to in tos} - {folder(name)}
    return found


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Return one circle of a graph, or nothing where there is none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_two_files_and_no_two_folders_import_each_other() -> None:
    assert circle(graph()) == []
    assert circle(folders()) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_a_folder_imports_only_from_the_folders_that_the_table_names() -> None:
    wrong = {}
    for name, found in folders().items():
        room = name.partition("/")[0]
        near = {to for to in found if to.partition("/")[0] == room and to not in BELOW_ITS_FOLDERS}
        allowed = {f"{room}/{to}" for to in MAY_IMPORT.get(name, set())}
        wrong[name] = sorted(near - allowed)
    assert {name: tos for name, tos in wrong.items() if tos} == {}


def test_the_table_of_folders_is_whole_and_from_the_ground_up() -> None:
    with_folders = {name.partition("/")[0] for name in MAY_IMPORT}
    there = {folder(name) for name in files()}
    assert set(MAY_IMPORT) == {
        name
        for name in there - BELOW_ITS_FOLDERS - {"offload/policy"}
        if name.partition("/")[0] in with_folders
    }
    told: list[str] = []
    for name, tos in MAY_IMPORT.items():
        room = name.partition("/")[0]
        assert {f"{room}/{to}" for to in tos} <= set(told), name
        told.append(name)


def test_no_name_of_a_module_is_given_twice() -> None:
    twice = []
    for name, path in files().items():
        given: Counter[str] = Counter()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign):
                given.update(each.id for each in node.targets if isinstance(each, ast.Name))
        twice += [f"{name}: {each}" for each, count in given.items() if count > 1]
    assert not twice, "the first value is never seen"


def test_no_two_public_classes_share_a_name() -> None:
    count: Counter[str] = Counter()
    for path in files().values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        count.update(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    twice = {name for name, number in count.items() if number > 1 and not name.startswith("_")}
    assert twice - set(TWICE) == set()
