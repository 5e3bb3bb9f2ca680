"""What wants a GPU, in parts of at most five minutes: checks first, then rows by their worth.

    scripts/gpu [--part N] [--json OUT] [--rehearse]

Each row is written when it is done, so that a run that is cut off still tells; `--part 2` goes on
in the same file. A row that fails is told with its reason, and the next one begins; one that its
part has no time left for says so. `--rehearse` runs every line on a CPU with a tiny model, and
keeps no figure: nothing is measured by that, but an hour on a GPU is not lost to a typing error.
No network is needed, and no llama-cpp-python; transformers makes the random models.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.cloud_gpu import (
    MINIATURE,
    Row,
    Setup,
    decode,
    engine_of,
    int4_decode,
    long_prefill,
    throughput,
)
from benchmarks.cloud_gpu import decode_speed as speed_of
from benchmarks.cloud_models import random_model
from benchmarks.gpu_checks import CHECKS
from engine.torch.attention import BACKENDS
from engine.torch.auto_choice import settled
from engine.torch.options import EngineOptions
from quantize.model_files import FolderFiles

PART_S = 300.0
Measure = Callable[[Setup], Awaitable[Row]]


async def auto(setup: Setup) -> Row:
    """What auto chose, beside the quickest decode found by trying every backend."""
    shape = setup.shapes[0]
    with tempfile.TemporaryDirectory() as where:
        folder = random_model(Path(where), shape, setup.dtype).folder
        name = str(setup.dtype).removeprefix("torch.")
        given = EngineOptions(device=setup.device, dtype=name)  # type: ignore[arg-type]
        began_s = time.perf_counter()
        _, choice = settled(FolderFiles(folder), given, Path(where) / "kept.json")
        took_s = time.perf_counter() - began_s
    speeds: dict[str, Any] = {}
    for backend in BACKENDS:
        sizes = {"max_model_len": min(1024, setup.max_model_len), "max_num_seqs": 8}
        size = {"block_size": max(16, BACKENDS[backend].block_multiple)}
        if backend == "flex" and setup.device == "cpu":
            speeds[backend] = "left out: there it is for tests alone"
            continue
        try:
            options = {**sizes, **size, "attention_backend": backend}
            async with engine_of(setup, shape, **options) as engine:
                speeds[backend] = round(await speed_of(engine, setup.num_decoded // 4), 2)
        except Exception as error:
            speeds[backend] = f"left out: {error}"[:200]
    best = max(value for value in speeds.values() if isinstance(value, float))
    share = speeds[choice.way.attention_backend] / best
    return {
        "of_best": round(share, 3),
        "goal": 0.97,
        "met": share >= 0.97,
        "chosen": str(choice),
        "measured_in_s": round(took_s, 1),
        "tokens_per_s": speeds,
    }


def parts_of(setup: Setup) -> list[dict[str, Measure]]:
    """Return the parts, the worthiest rows first."""
    decodes = [
        {f"decode/{shape}": partial(_of_shape, decode, shape)} for shape in reversed(setup.shapes)
    ]
    small, large = decodes[-1], decodes[0]
    return [
        dict(CHECKS),
        large | small,
        {"int4": int4_decode},
        {"throughput": throughput, "auto": auto},
        {"prefill": long_prefill} | {k: v for row in decodes[1:-1] for k, v in row.items()},
    ]


def _of_shape(measure: Measure, shape: str, setup: Setup) -> Awaitable[Row]:
    return measure(replace(setup, shapes=(shape,)))


async def run_part(
    rows: dict[str, Measure], setup: Setup, keep: Callable[[str, Row], None]
) -> None:
    """Run a part's rows one after another, and hand each over when it is done."""
    until_s = time.monotonic() + PART_S
    for name, measure in rows.items():
        if (left_s := until_s - time.monotonic()) <= 0:
            keep(name, {"not reached": "the part's time was used up; run it again for this row"})
            continue
        try:
            row = await asyncio.wait_for(measure(setup), left_s)
        # Whatever a row fails by, the next one may tell something.
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {error}"[:400]}
        keep(name, row)


def main() -> int:
    """Run what is asked for; 1 where a check was wrong or a row failed."""
    parser = argparse.ArgumentParser(prog="scripts/gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--part", type=int, default=0, help="this part alone, from 1; 0 is all")
    parser.add_argument("--json", type=Path, default=Path("build/gpu.json"), metavar="OUT")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, without a figure")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        print("scripts/gpu: torch sees no GPU; --rehearse runs the same code on the CPU")
        return 1
    setup = MINIATURE if args.rehearse else Setup()
    known = _known(args.json) if args.part > 1 else {}
    bad: list[str] = []

    def keep(name: str, row: Row) -> None:
        if row.get("right") is False or "failed" in row:
            bad.append(name)
        if args.rehearse:
            told = "failed: " + row["failed"] if "failed" in row else ", ".join(row)
            print(f"{name} runs; told would be: {told}", flush=True)
            return
        known[name] = row
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**_machine(), "rows": known}, indent=1) + "\n")
        print(name, json.dumps(row), flush=True)

    for number, rows in enumerate(parts_of(setup), start=1):
        if args.part in (0, number):
            asyncio.run(run_part(rows, setup, keep))
    print(f"wrong or failed: {', '.join(bad)}" if bad else "all right")
    return 1 if bad else 0


def _known(path: Path) -> dict[str, Row]:
    return dict(json.loads(path.read_text())["rows"]) if path.is_file() else {}


def _machine() -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seed": 0,
    }
