"""The speed of the cloud engine, beside transformers and beside itself with a switch turned off.

    python -m benchmarks.cloud [--only ROW ...] [--quick] [--json OUT] [--threads N]
    python -m benchmarks.cloud --folder FOLDER --text FILE ...

Both sides of a row run in one process, in turn, greedy and in the same dtype, and must write the
same tokens. Rows on a CPU use the embedded cloud model and a random one of 100M parameters in
float32. With trained weights transformers runs in the quicker of its types and ours in what "auto"
chooses, by the processor's time; that both write the same is a row of its own, in float32. What
wants a GPU is measured by scripts/gpu, and says "not yet measured" here until then.
With --json, a row replaces its like in a file that is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.cloud_cpu import CPU_ROWS
from benchmarks.cloud_gpu import GPU_ROWS
from benchmarks.cloud_long import long_context
from benchmarks.cloud_models import BenchModel, embedded_model, random_model, real_model

_REAL = ("batch-1", "mixed-16", "poisson", "prefix", "greedy-40")
_NOT_MEASURED = "not yet measured"
_LONG = "long-context"
_MODELS = ("nearfar-cloud", "random-100M", "random-moe-windows")
_MEMORY_ONLY = "random-moe-windows"  # what the prediction of memory was not made with


def main() -> None:
    """Measure what is asked for, print it, and keep it if told where."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    rows = asyncio.run(_cpu_rows(args))
    report = _merged(args.json, rows) if args.json else {"rows": rows}
    text = json.dumps({**_machine(args), **report}, indent=1)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.cloud")
    parser.add_argument("--only", nargs="*", choices=[*CPU_ROWS, _LONG], default=[])
    parser.add_argument("--model", choices=_MODELS)
    parser.add_argument("--folder", type=Path, help="trained weights instead, with --text")
    parser.add_argument("--text", type=Path, help="a long text, of which passages are asked for")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a look")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


async def _cpu_rows(args: argparse.Namespace) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        for model in _models(Path(place), args):
            for name, measure in CPU_ROWS.items():
                wanted = not args.only or name in args.only
                if model.is_real != (name in _REAL) and (model.is_real or name == "greedy-40"):
                    continue
                if wanted and (name == "memory" or model.name != _MEMORY_ONLY):
                    row = await measure(model, quick=args.quick)
                    load = round(os.getloadavg()[0], 1)
                    rows[f"{name}/{model.name}"] = {**row, "quick": args.quick, "load": load}
                    print(name, json.dumps(rows[f"{name}/{model.name}"]), flush=True)
    if (not args.only and args.folder is None) or _LONG in args.only:
        rows[_LONG] = {**await long_context(quick=args.quick), "quick": args.quick}
        print(_LONG, json.dumps(rows[_LONG]), flush=True)
    return rows


def _models(place: Path, args: argparse.Namespace) -> list[BenchModel]:
    if args.folder is not None:
        return [real_model(place, args.folder, args.text.read_text(encoding="utf-8"))]
    names = _MODELS if args.model is None else (args.model,)
    return [
        embedded_model(place) if name == "nearfar-cloud" else random_model(place, name)
        for name in names
    ]


def _merged(path: Path, rows: dict[str, Any]) -> dict[str, Any]:
    known = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.is_file() else {}
    absent = dict.fromkeys(GPU_ROWS, _NOT_MEASURED)
    return {"rows": {**absent, **known, **rows}}


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "seed": 0,
        "processor": _processor(),
        "threads": args.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
