"""Policy live on the embedded pair, at three widths of the near model, on unseen questions.

    python benchmarks/policy.py [--float build/pair/nearfar-edge-f32.gguf] [--folder build/policy]

For each width both models answer the calibration questions (kept in the folder, so that a second
run is quick), a policy is fitted, and the bank's test split is decided by it. Writes policy.json
beside itself: how well right is told from wrong, the way to perfect self-knowledge, calibration
error, what giving up early saves, whether promises hold over resamples, whether a budget is
held when the topic shifts, and what a decision costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backbone.files import SHARED, atomic_write  # noqa: E402
from benchmarks.policy_parts import (  # noqa: E402
    Both,
    budget_held,
    decision_cost,
    early_savings,
    live,
    promises,
    same_probe,
)
from offload.pair import EDGE_MODEL  # noqa: E402
from offload.policy.fitting.calibrator import CalibrationOptions, calibrate  # noqa: E402
from scripts.pair.calibration import (  # noqa: E402
    bank_questions,
    calibration_questions,
    label_pair,
    pairing_of,
)

WIDTHS = {"f32": "f32", "int8": "q8_0", "int4": "q4_k_m"}


def models(full: Path, folder: Path) -> dict[str, Path]:
    """Return a near model of each width: the shipped one at int4, others made from the float."""
    from quantize.gguf import convert

    eight = folder / "nearfar-edge-q8_0.gguf"
    if not eight.exists():
        folder.mkdir(parents=True, exist_ok=True)
        convert(full, eight, kind="q8_0")
    return {"f32": full, "int8": eight, "int4": EDGE_MODEL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--float", type=Path, default=ROOT / "build" / "pair" / "nearfar-edge-f32.gguf"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "policy")
    parser.add_argument("--only-cost", action="store_true", help="measure a decision's cost anew")
    arguments = parser.parse_args()
    target = Path(__file__).with_suffix(".json")
    report = json.loads(target.read_text()) if target.exists() else {}
    if not arguments.only_cost:
        report |= measured(arguments.float, arguments.folder)
    report["decision_cost"] = decision_cost()
    report["machine"] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.platform(),
    }
    atomic_write(target, f"{json.dumps(report, indent=1)}\n".encode(), mode=SHARED)


def measured(full: Path, folder: Path) -> dict[str, object]:
    questions, test = calibration_questions(), bank_questions("test")
    report = {}
    for width, path in models(full, folder).items():
        print(width, file=sys.stderr, flush=True)
        labels = label_pair(path, [*questions, *test], folder)
        pairing = pairing_of(path, WIDTHS[width])
        fitted_on, rows = labels.of(questions)
        options = CalibrationOptions(max_prior_labels=500)
        rule = calibrate(fitted_on, rows, pairing, options)
        answered = Both(*labels.of(test))
        report[width] = {
            "held": json.loads(_plain(rule.policy.found)),
            "test": live(rule, answered),
            "early": early_savings(rule, answered),
            "probe": same_probe(fitted_on, rows, answered),
            "promises": promises(rule, fitted_on, rows),
        }
    return {"live": report, "budget": budget_held(), "seed": 0}


def _plain(value: object) -> bytes:
    import msgspec

    return msgspec.json.encode(value)


if __name__ == "__main__":
    main()
