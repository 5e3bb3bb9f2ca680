"""Divergence that a matrix's rounding is predicted to cost, beside swapping the matrix in.

    python -m benchmarks.quantize_sensitivity MODEL --text TEXT [--every N] [--types q4_0,q8_0]

MODEL is a Hugging Face folder. Every Nth matrix of each type is judged both ways on the same
windows of text; adds the model's rows to quantize_sensitivity.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, quants

from quantize.architectures import architecture_of, as_in_checkpoint, gguf_name
from quantize.calibration import CalibrationOptions
from quantize.curvature import CurvatureProbe
from quantize.gguf import convert
from quantize.weights import read_config

RESULT = Path(__file__).with_suffix(".json")
TEXT = CalibrationOptions(num_windows=8, window_len=256, seed=17)


def rows_of(model: Path, text: str, kinds: list[str], every: int) -> dict[str, Any]:
    """Return the ratio of predicted to measured divergence of each kind of matrix."""
    config = read_config(model)
    architecture = architecture_of(config)
    began = time.process_time()
    probe = CurvatureProbe(model, text, TEXT)
    looked_s, began = time.process_time() - began, time.process_time()
    curvatures = probe.curvatures()
    curved_s, swapped_s, num_swaps = time.process_time() - began, 0.0, 0
    names = {gguf_name(architecture, f"model.{n}") or n: n for n in probe.shapes()}
    ratios: dict[str, list[float]] = defaultdict(list)
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="nearfar-bench-") as folder:
            file = convert(model, Path(folder, "m.gguf"), kind=kind).path
            tensors = [t for t in GGUFReader(file).tensors if t.name in names]
            for tensor in [t for t in tensors if t.tensor_type.name.lower() == kind][::every]:
                name = names[tensor.name]
                stored = quants.dequantize(tensor.data, tensor.tensor_type)
                rounded = as_in_checkpoint(architecture, config, tensor.name, stored)
                error = probe.error(name, rounded)
                predicted = sum(each.divergence(error) for each in curvatures[name])
                began = time.process_time()
                measured = probe.kld_with(name, rounded)
                swapped_s += time.process_time() - began
                num_swaps += 1
                if measured > 0.0 and predicted > 0.0:
                    ratios[name.removesuffix(".weight").split(".")[-1]].append(predicted / measured)
    return {
        "predicted_over_measured": {
            name: {
                "count": len(found),
                "median": statistics.median(found),
                "least": min(found),
                "most": max(found),
            }
            for name, found in sorted(ratios.items())
        },
        "spread": _spread(ratios),
        "cpu_s": {"all_curvatures": curved_s, "a_swap": swapped_s / num_swaps, "once": looked_s},
        "types": kinds,
        "every": every,
    }


def _spread(ratios: dict[str, list[float]]) -> float:
    """Return the factor within which two of three predictions lie."""
    logs = [math.log(r) for found in ratios.values() for r in found]
    return math.exp(statistics.pstdev(logs))


def main() -> None:
    """Judge one model, and keep its rows beside those of others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--types", default="q4_0,q8_0")
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    text = asked.text.read_text(encoding="utf-8")[:400_000]
    found = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    found[asked.model.name] = rows_of(asked.model, text, asked.types.split(","), asked.every)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found[asked.model.name], indent=1))


if __name__ == "__main__":
    main()
