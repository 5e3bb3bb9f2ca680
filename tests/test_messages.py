"""Every error that a person may meet: one line, told once, with what would mend it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("backbone", "quantize", "offload", "engine", "edge", "cloud", "serve")
# What only the two ends of a link say to each other, and what a caller words itself.
BETWEEN_MACHINES = {"WireError"}
REMEDY = re.compile(
    r"[;:]|\b(must|at most|at least|only|choose|use|needs?|(known|supported) are)\b"
)


def modules() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def errors() -> set[str]:
    """The names of NearfarError and of all that is built on it."""
    found, before = {"NearfarError"}, set[str]()
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in modules()]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while found != before:
        before = set(found)
        found |= {
            each.name
            for each in classes
            if any(isinstance(base, ast.Name) and base.id in before for base in each.bases)
        }
    return found - BETWEEN_MACHINES


def words(node: ast.expr) -> str | None:
    """A message as it is written, with {} for what is filled in; None for one that is built."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    return None


def messages() -> Iterator[tuple[str, str]]:
    kinds = errors()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = (
                node.func.id
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
                else ""
            )
            if name in kinds and isinstance(node, ast.Call) and node.args:
                text = words(node.args[0])
                if text is not None and name not in ("MissingExtra", "ContextLengthError"):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


MESSAGES = dict(messages())


def test_there_are_messages_to_look_at() -> None:
    assert len(MESSAGES) > 300


def test_every_message_says_what_would_mend_it() -> None:
    bare = {at: text for at, text in MESSAGES.items() if not REMEDY.search(text.replace("{}", ""))}
    # What hands on another's message has its remedy, too.
    bare = {at: text for at, text in bare.items() if not text.startswith("{}, or ")}
    assert bare == {}


def test_no_message_ends_in_a_full_stop_or_has_lines() -> None:
    wrong = {at: text for at, text in MESSAGES.items() if text.endswith(".") or "\n" in text}
    assert wrong == {}


def test_messages_begin_small_as_they_stand_behind_the_commands_name() -> None:
    begun = re.compile(r"[A-Z][a-z]")
    names = ("CUDA", "GPTQ", "JSON", "GGUF")
    wrong = {at: text for at, text in MESSAGES.items() if begun.match(text)}
    assert {at: text for at, text in wrong.items() if not text.startswith(names)} == {}


def test_an_error_of_the_system_is_told_by_its_cause() -> None:
    """`{error}` of an OSError repeats the file or the address that the message names already."""
    told = [
        f"{path.relative_to(ROOT)}:{handler.lineno}"
        for path in modules()
        for handler in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(handler, ast.ExceptHandler) and _tells_all(handler)
    ]
    assert told == [], "write cause(error), of backbone.errors"


def _tells_all(handler: ast.ExceptHandler) -> bool:
    named = list(ast.walk(handler.type)) if handler.type is not None else []
    caught = {getattr(node, "id", getattr(node, "attr", "")) for node in named}
    if not caught & {"OSError", "ZMQError", "UnicodeDecodeError"}:
        return False
    return any(
        ast.unparse(part.value) == handler.name
        for raised in ast.walk(handler)
        if isinstance(raised, ast.Raise)
        for part in ast.walk(raised)
        if isinstance(part, ast.FormattedValue)
    )
