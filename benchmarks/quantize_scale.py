"""What quantizing a model of Qwen2.5-0.5B's shape takes: seconds, and peak memory by depth.

    python -m benchmarks.quantize_scale --layers 8 16 24 --tokens 2048 --json OUT    # memory
    python -m benchmarks.quantize_scale --layers 2 --tokens 8192 32768 --json OUT    # time

The weights are random, so nothing here tells how good the results are. Every run is a process of
its own, and the memory is the system's count of its peak. Times mean something only on a machine
that does nothing else; the figures of fewer layers are kept beside what 24 of them would take.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.quantize import processor
from benchmarks.random_checkpoint import SHAPE, write_random
from quantize.calibration import CalibrationOptions

FULL_DEPTH = 24
WINDOW = 512
JOBS = ("gptq", "importance", "q8_0", "q4_k_m")
_READS_TEXT = ("gptq", "gptqmodel", "importance")
OTHERS = ("gptqmodel",)  # run only where asked for: its package is installed apart


def main() -> None:
    """Run every job at every depth, and write what each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 24])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048])
    parser.add_argument("--jobs", nargs="+", choices=(*JOBS, *OTHERS), default=list(JOBS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--note", default="")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="nearfar-scale-") as folder:
        for num_layers in options.layers:
            source = write_random(Path(folder) / f"{num_layers}", num_layers=num_layers)
            for job in options.jobs:
                # Only what reads text is slower with more of it.
                for tokens in options.tokens if job in _READS_TEXT else [0]:
                    runs.append(_run(job, source, num_layers, tokens, options.threads))
                    print(json.dumps(runs[-1]), flush=True)
    document = {
        "runs": runs,
        "memory_goal_bytes": memory_goal_bytes(),
        "note": options.note,
        "shape": SHAPE,
        "hardware": {"processor": processor(), "system": platform.system()},
        "versions": {name: version(name) for name in ("torch", "numpy", "llama-cpp-python")},
    }
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def memory_goal_bytes() -> int:
    """Return 1 GB, one block in float32, and its Hessians."""
    hidden, inner = int(str(SHAPE["hidden_size"])), int(str(SHAPE["intermediate_size"]))
    block = hidden * (hidden * 2 + 2 * 128 + 3 * inner)
    hessians = 3 * hidden**2 + inner**2
    return 10**9 + 4 * (block + hessians)


def _run(job: str, source: Path, num_layers: int, tokens: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="nearfar-scale-") as out:
        words = [sys.executable, "-m", "benchmarks.quantize_scale_job"]
        words += [job, str(source), out, str(tokens), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        started = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
        wall_s = time.perf_counter() - started
    found = json.loads(done.stdout)
    # What does not grow with depth is small: the embedding and the start of the process.
    return {
        "job": job,
        "layers": num_layers,
        "tokens": tokens,
        "threads": threads,
        "seconds": found["seconds"],
        "seconds_at_24_layers_if_linear": found["seconds"] * FULL_DEPTH / num_layers,
        "process_seconds": wall_s,
        "peak_memory_bytes": found["peak_memory_bytes"],
    }


def windows_for(tokens: int) -> CalibrationOptions:
    """Return windows of 512 tokens that hold so many."""
    return CalibrationOptions(num_windows=max(1, tokens // WINDOW), window_len=WINDOW)


if __name__ == "__main__":
    main()
