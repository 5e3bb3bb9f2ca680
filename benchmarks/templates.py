"""What it takes to render a chat template in a process of its own, beside transformers in this one.

Templates are those that llama-cpp-python brings along, and those of a folder with `*.jinja` files:
`python benchmarks/templates.py [FOLDER]`. Writes benchmarks/templates.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llama_cpp import llama_chat_format
from transformers.utils.chat_template_utils import render_jinja_template

from backbone.chat_template import render

HERE = Path(__file__).resolve().parent
RUNS = 40
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TURN = "What is the largest prime below one hundred, and why? " * 4
ROLES = ("user", "assistant")
LENGTHS = {"1 turn": 1, "41 turns": 41}


def conversation(length: int) -> list[dict[str, str]]:
    """Return turns whose roles alternate, the first and the last a person's."""
    return [{"role": ROLES[i % 2], "content": f"{i} {TURN}"} for i in range(length)]


def least_ms(work: Callable[[], object]) -> float:
    """Return the least milliseconds of many runs: what the machine's other work does not add to."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times) * 1e3


def first_ms(template: str) -> float:
    """Return the milliseconds until a template of its own is rendered once, process and all."""
    began = time.perf_counter()
    render(template + "{# anew #}", conversation(1), special_tokens=TOKENS)
    return (time.perf_counter() - began) * 1e3


def measured(template: str) -> dict[str, Any] | None:
    """Return the figures of one template, None where it takes no plain conversation."""
    found: dict[str, Any] = {}
    for name, length in LENGTHS.items():
        turns: Any = conversation(length)

        def theirs(turns: Any = turns) -> str:
            texts, _ = render_jinja_template([turns], chat_template=template, **TOKENS)
            return str(texts[0])

        def ours(turns: Any = turns) -> str:
            return render(template, turns, special_tokens=TOKENS, add_generation_prompt=False).text

        try:
            same = theirs() == ours()
        except Exception:  # of a template, which may refuse in its own way
            return None
        assert same, "both render the same"
        mine, other = least_ms(ours), least_ms(theirs)
        found[name] = {"over_transformers": round(mine / other, 2), "ms": round(mine, 3)}
        found[name]["transformers_ms"] = round(other, 3)
    return found


def templates(folder: Path | None) -> dict[str, str]:
    """Return templates by name."""
    suffix = "_CHAT_TEMPLATE"
    known = vars(llama_chat_format).items()
    found = {name.removesuffix(suffix): text for name, text in known if name.endswith(suffix)}
    files = sorted(folder.glob("*.jinja")) if folder else []
    return found | {path.stem: path.read_text(encoding="utf-8") for path in files}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    rows = {name: measured(text) for name, text in templates(folder).items()}
    kept = {name: row for name, row in rows.items() if row is not None}
    brought = [name for name in kept if name in templates(None)]
    report: dict[str, Any] = {
        "ms_median": {n: statistics.median(r[n]["ms"] for r in kept.values()) for n in LENGTHS},
        "ms_worst": {n: max(r[n]["ms"] for r in kept.values()) for n in LENGTHS},
        "num_templates": len(kept),
        "first_ms": round(first_ms(templates(None)["CHATML"]), 1),
        "templates": {name: kept[name] for name in brought},
        "runs": RUNS,
        "seed": None,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: version(name) for name in ("nearfar", "jinja2", "transformers")},
    }
    text = json.dumps(report, indent=2) + "\n"
    (HERE / "templates.json").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
