"""Isolated evaluation: judges one model in its own process, and measures that one's memory.

Run as `python -m quantize.isolated_evaluation`: one JSON task on stdin, one JSON answer on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from backbone.errors import NearfarError
from quantize.divergence import Divergence, DivergenceSum, inside_answers
from quantize.logits_model import open_model, prepare

_FEW = 16  # tokens that a model reads before its memory is looked at


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """Evaluation task: windows of tokens, and the file of the reference's logits.

    The file is float32 [num_windows, window_len - first_scored - 1, vocab_size]. Position i is
    scored by how it predicts token i + 1; positions before `first_scored` only give context.
    """

    model: str
    windows: list[list[int]]
    first_scored: int
    logits_file: str
    vocab_size: int
    write: bool
    num_threads: int
    between: tuple[int, int] | None = None  # score only answers: between these two tokens


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Evaluation result of one process; `divergence` is None where it wrote the reference."""

    divergence: Divergence | None
    load_s: float
    tokens_per_s: float
    # What the loaded model holds, without what judging needs beside it; of folders with what torch
    # sets up for its first network, some 150 MB.
    memory_bytes: int


def evaluate(task: EvaluationTask) -> EvaluationResult:
    """Run a task in a fresh process. Raises NearfarError with the reason where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "quantize.isolated_evaluation"],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": str(task.num_threads)},
    )
    if done.returncode == 1 and done.stdout.strip():
        raise NearfarError(json.loads(done.stdout)["error"])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NearfarError(
            f"judging {task.model} stopped with status {done.returncode} ({last}); "
            "check that there is enough memory"
        )
    raw = json.loads(done.stdout)
    divergence = raw.pop("divergence")
    return EvaluationResult(divergence=Divergence(**divergence) if divergence else None, **raw)


def _run(task: EvaluationTask) -> EvaluationResult:
    window_len = len(task.windows[0])
    prepare(Path(task.model))
    before, started = resident_bytes(), time.perf_counter()
    model = open_model(Path(task.model), context_len=window_len, num_threads=task.num_threads)
    load_s = time.perf_counter() - started
    model.logits(task.windows[0][:_FEW])  # its buffers, and pages of a file that is mapped
    memory = max(0, resident_bytes() - before)
    shape = (len(task.windows), window_len - task.first_scored - 1, task.vocab_size)
    mode: Any = "w+" if task.write else "r"
    stored = np.memmap(task.logits_file, dtype=np.float32, mode=mode, shape=shape)
    found, running_s = DivergenceSum(), 0.0
    for number, window in enumerate(task.windows):
        started = time.perf_counter()
        logits = model.logits(window)[task.first_scored : -1, : task.vocab_size]
        running_s += time.perf_counter() - started
        if task.write:
            stored[number] = logits
        else:
            targets = np.asarray(window[task.first_scored + 1 :], dtype=np.int64)
            keep = _scored(task, window)
            found.add(stored[number][keep], logits[keep], targets[keep])
    model.close()
    return EvaluationResult(
        divergence=None if task.write else found.result(),
        load_s=load_s,
        tokens_per_s=len(task.windows) * window_len / running_s,
        memory_bytes=memory,
    )


def _scored(task: EvaluationTask, window: list[int]) -> NDArray[np.bool_]:
    if task.between is None:
        return np.ones(len(window) - task.first_scored - 1, dtype=np.bool_)
    opening, closing = task.between
    return inside_answers(window, (opening, closing))[task.first_scored + 1 :]


def resident_bytes() -> int:
    """Return what is resident of this process, mapped files included."""
    return int(psutil.Process().memory_info().rss)


def main() -> int:
    """Read a task, answer it; a NearfarError becomes its message and status 1."""
    task = EvaluationTask(**json.load(sys.stdin))
    try:
        print(json.dumps(asdict(_run(task))))
    except NearfarError as error:
        print(json.dumps({"error": str(error)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
