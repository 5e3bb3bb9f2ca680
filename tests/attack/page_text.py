"""The page's Markdown and code, rendered in Node from texts grown from their own expressions.

There are no nodes of a browser; what is measured is the time that reading takes, and of it only
the growth between two lengths.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.hostile import Hostile, hostile

PAGE = Path(__file__).parents[2] / "edge/assistant/page"
_SCRIPT = Path(__file__).with_suffix(".mjs")
SHORT, LONG = 16_000, 64_000  # characters
MOST_GROWTH = 1.3  # the power of the length
UNSEEN_MS = 120.0  # what grows with the square takes seconds at LONG
_NUM_HOSTILE = 3  # of each expression
# A literal of JavaScript's, behind what no division follows.
_LITERAL = re.compile(r"(?<=[=(,\[ !])/(?![/*])((?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+)/[a-z]*")
# Signs that no expression but the scanner itself looks for, and shapes that once froze the page.
_SHAPES = (
    *(Hostile("", part, "") for part in ("[](", "[a](", "**a ", "_a ", "~~a", "![", "http://,")),
    *(Hostile("", part, "!") for part in ("> ", "- ", "1. ", "| a ", "|-", "# ", "  ", "*a**")),
    *(Hostile("a|b\n-|-\n", part, "") for part in ("|\n", "a|b\n", "\\|")),
    *(Hostile(f"```{name}\n", part, "") for name in ("python", "js", "sql", "sh")
      for part in ('"""', "'", "`\\", "/*", "--", "#", "1_", "1e", "$a", "a(")),
)  # fmt: skip


@dataclass(frozen=True)
class Growth:
    """How the time of a text grew with its length; `power` is 1 where in proportion."""

    text: Hostile
    power: float
    long_ms: float


def node() -> str | None:
    """Return a Node to run: the system's, or the one that Playwright brings."""
    if found := shutil.which("node"):
        return found
    try:
        import playwright
    except ModuleNotFoundError:
        return None
    brought = Path(playwright.__file__).parent / "driver/node"
    return str(brought) if brought.is_file() else None


def page_texts() -> list[Hostile]:
    """Return texts grown from every expression of the page's Markdown and colouring."""
    found = list(_SHAPES)
    for name in ("markdown.js", "highlight.js"):
        for literal in _LITERAL.findall((PAGE / name).read_text(encoding="utf-8")):
            # [^] is JavaScript's for any character; the rest is written alike in Python.
            found += hostile(literal.replace("[^]", "[^\\0]"), 0, count=_NUM_HOSTILE)
    return found


def growths(node_path: str, texts: list[Hostile], page: Path = PAGE) -> list[Growth]:
    """Render each text at two lengths in one Node, and return how its time grew."""
    asked = json.dumps([[each.grown(SHORT), each.grown(LONG)] for each in texts])
    with tempfile.TemporaryDirectory() as folder:
        for each in page.glob("*.js"):  # to where Node is told that they are modules
            shutil.copy(each, folder)
        (Path(folder) / "package.json").write_text('{"type": "module"}', encoding="utf-8")
        run = subprocess.run(
            [node_path, str(_SCRIPT), folder],
            input=asked,
            capture_output=True,
            text=True,
            timeout=110,
        )
    assert run.returncode == 0, run.stderr
    times = json.loads(run.stdout)
    return [
        Growth(
            text,
            math.log(max(long_ms, 1e-3) / max(short_ms, 1e-3)) / math.log(LONG / SHORT),
            long_ms,
        )
        for text, (short_ms, long_ms) in zip(texts, times, strict=True)
    ]


def runaways(found: list[Growth]) -> list[Growth]:
    """Return those that take more than in proportion to their length."""
    return [each for each in found if each.long_ms > UNSEEN_MS and each.power > MOST_GROWTH]
