"""The edge runtime beside what a person would use instead, each pair of sides in one run.

    python -m benchmarks.edge [--models FOLDER] [--only ROW] [--quick] [--write]
    python -m benchmarks.edge --apart [--behind COMMAND] [--models FOLDER] [--only ROW]

Speeds are of random weights of the Qwen2.5-0.5B shape in Q4_K_M, made here at the first run;
perplexities are of trained models. --write keeps the rows in edge.json and draws edge.svg. With
--models they are other rows, of real models: of a folder with GGUF files of Qwen2.5-Coder 0.5B and
1.5B, kept in edge_models.json.
--apart measures each row in a process of its own, below four minutes each for random weights, and
keeps each as it ends: what was measured before another fails, or the machine is taken away, stays.
--behind is a command to run each of them by, such as one that waits until the machine is free.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import (
    edge_at_once,
    edge_drafts,
    edge_memory,
    edge_models,
    edge_reading,
    edge_speed,
    edge_stream,
)
from benchmarks.edge_picture import draw
from benchmarks.figures import mark
from edge.device.cpu_load import Disturbance

Row = dict[str, Any]
RESULT = Path(__file__).with_suffix(".json")
MODELS_RESULT = RESULT.with_name("edge_models.json")

# What is measured, and the ratio that was aimed at.
ROWS: dict[str, tuple[Callable[[bool], Row], str]] = {
    "bare": (edge_speed.bare, "at least 0.97 of a bare llama_decode loop, prompt and answer"),
    "chat_idle": (edge_speed.chat_idle, "at least 1.4 times llama_cpp.Llama's defaults, idle"),
    "chat_busy": (
        edge_speed.chat_busy,
        "at least 1.6 times llama_cpp.Llama on all cores, one core busy",
    ),
    "governor": (edge_speed.governor, "at least 0.95 of the best fixed threads, each load"),
    "clients": (edge_speed.clients, "at least 2 times llama_cpp.server, 4 clients at once"),
    "long_chat": (
        edge_memory.long_chat,
        "first token at least 10 times sooner at turn 50 past the context; within 1.2 of turn 5",
    ),
    "session": (edge_memory.session, "at least 500 times quicker than reading 2,000 tokens again"),
    "kv_types": (
        edge_memory.kv_types,
        "q8_0 1.88, K8/V4 2.46, q4_0 3.56 times smaller; perplexity within 0.1, 0.5, 3 per cent",
    ),
    "reading": (edge_reading.reading, "a cache of 8 bits read as quickly as one of 16"),
    "stream": (
        edge_stream.stream,
        "ten windows: perplexity within 1 per cent, memory constant, speed within 5 per cent",
    ),
}

# The same of real models, each row from the folder that holds them.
MODEL_ROWS: dict[str, tuple[Callable[[Path, bool], Row], str]] = {
    "at_once": (edge_at_once.at_once, "at least 0.9 of plain llama.cpp's batches of 2, 4 and 8"),
    "choosing": (edge_at_once.choosing, "at most 5 per cent of a step, and 8 with all samplers"),
    "served": (edge_models.served, "at least 2.2 times llama_cpp.server, 4 clients at once"),
    "first_token": (edge_models.first_token, "at least 0.95 of plain llama.cpp"),
    "compressed": (
        edge_reading.compressed,
        "at least 0.9 of f16, reading and writing, with the cache offered where memory is short",
    ),
    "ask": (edge_models.ask, "at most 1.15 times as long, with 1.1 times the memory"),
    "one_answer": (edge_models.one_answer, "at least 1.5 times llama_cpp.Llama's defaults, idle"),
    "loads": (edge_models.loads, "at least 0.95 of the best fixed threads, each load"),
    "drafts": (edge_drafts.drafts, "never below 0.98; at least 1.5 on editing, 1.2 on the others"),
    "long_chat": (edge_models.long_chat, "first token at least 10 times sooner at turn 60"),
    "session": (edge_models.session, "at least 500 times quicker than reading 2,000 tokens again"),
}

# Rows without neighbours or servers of their own: others' load there is a disturbance, and is told.
ALONE = (
    *("chat_idle", "long_chat", "session", "kv_types", "reading"),
    *("at_once", "choosing", "first_token", "one_answer"),
)


def main() -> None:
    """Run the rows that were asked for and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", type=Path, help="a folder of real models, for their rows")
    parser.add_argument("--only", choices=sorted({*ROWS, *MODEL_ROWS}), action="append")
    parser.add_argument("--quick", action="store_true", help="a shorter run, to see that it works")
    parser.add_argument("--write", action="store_true", help="keep the rows beside this script")
    parser.add_argument("--apart", action="store_true", help="each row in a process of its own")
    parser.add_argument("--behind", type=shlex.split, default=[], help="what runs each process")
    wanted = parser.parse_args()
    known = list(ROWS if wanted.models is None else MODEL_ROWS)
    names = wanted.only or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"{unknown[0]} is not among {', '.join(known)}")
    if wanted.apart:
        raise SystemExit(_apart(names, wanted))
    rows = {name: _measure(name, wanted) for name in names}
    print(json.dumps({"hardware": hardware(), "rows": rows}, indent=1))
    if wanted.write:
        _keep(rows, known, RESULT if wanted.models is None else MODELS_RESULT)


def _keep(rows: Row, known: Sequence[str], result: Path) -> None:
    kept = json.loads(result.read_text()) if result.exists() else {"rows": {}}
    marked = {name: {**row, "measured": mark()} for name, row in rows.items()}
    merged = {**kept["rows"], **marked}
    ordered = {name: merged[name] for name in known if name in merged}
    document = {"seed": 1, "hardware": hardware(), "rows": ordered}
    result.write_text(json.dumps(document, indent=1) + "\n")
    if result == RESULT:
        draw(ordered, result.with_suffix(".svg"))


def _apart(names: Sequence[str], wanted: argparse.Namespace) -> int:
    """Measure each row by itself and keep it; return 1 where any failed."""
    failed = []
    more = [] if wanted.models is None else ["--models", str(wanted.models)]
    for name in names:
        command = [sys.executable, "-m", "benchmarks.edge", "--only", name, "--write", *more]
        started = time.perf_counter()
        ended = subprocess.run(
            [*wanted.behind, *command, *["--quick"] * wanted.quick], stdout=subprocess.DEVNULL
        ).returncode
        told = "kept" if ended == 0 else f"failed ({ended})"
        print(f"{name}: {told} after {time.perf_counter() - started:.0f} s", flush=True)
        failed += [name] * (ended != 0)
    return int(bool(failed))


def _measure(name: str, wanted: argparse.Namespace) -> Row:
    before = os.getloadavg()[0]
    watch, started = Disturbance(), time.perf_counter()
    if wanted.models is None:
        run, goal = ROWS[name]
        row = run(wanted.quick)
    else:
        run_models, goal = MODEL_ROWS[name]
        row = run_models(wanted.models, wanted.quick)
    if name in ALONE:
        row.setdefault("others_busy_cores", round(watch.busy_cores(), 2))
    return {
        "ratio": row.pop("ratio"),
        "goal": goal,
        **row,
        "quick": wanted.quick,
        "load_before": before,
        "seconds": round(time.perf_counter() - started, 1),
    }


def hardware() -> Row:
    """Return the machine and the versions that the figures belong to."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.name == "posix" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
        "nearfar": version("nearfar"),
    }


if __name__ == "__main__":
    main()
