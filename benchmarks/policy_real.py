"""Rule of the first day on real models: fitted, and judged where it was not fitted.

    python benchmarks/policy_real.py [--ship]

Reads the tables of answers in benchmarks/policy_real, one a model; no text of a question or an
answer is in them, and `nearfar policy answers` writes such tables. Each pair of a near model and a
set is scored by weights fitted to the OTHER models' answers to the OTHER sets; the ridge is chosen
within what is fitted on. Writes policy_real.json beside itself: AUROC of every pair beside the
single signals, calibration error, the way from random to perfect self-knowledge, each feature
alone, and what a linear model and trees reach on the same table with five folds (these need
scikit-learn). `--ship` fits to all of it and writes the weights that ship.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.policy_real_fits import Table, scores_left_out, ship  # noqa: E402
from benchmarks.policy_real_fresh import ceiling_of_one_model, far_by_prompt, fresh  # noqa: E402
from benchmarks.policy_real_ideas import (  # noqa: E402
    given_up_early,
    sampled,
    second_look,
    wording,
)
from benchmarks.policy_real_parts import (  # noqa: E402
    ceilings,
    each_feature,
    everyday,
    left_out,
    real_pair,
)

TABLES = Path(__file__).with_name("policy_real")
FAR, NEAR = "Qwen2.5-Coder-1.5B", "Qwen2.5-Coder-0.5B"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ship", action="store_true", help="write the weights that ship")
    arguments = parser.parse_args()
    paths = sorted(TABLES.glob("*.jsonl.gz"))
    tables = {path.name.removesuffix(".jsonl.gz"): Table.read(path) for path in paths}
    if arguments.ship:
        ship(tables, far=tables[FAR])
    said = {name: scores_left_out(tables, name) for name in tables}
    report = {
        "questions": {name: len(table.right) for name, table in tables.items()},
        "right": {name: float(table.right.mean()) for name, table in tables.items()},
        "left_out": left_out(tables, said),
        "pairs": {
            name: real_pair(tables, said, near=name, far=FAR) for name in tables if name != FAR
        },
        "fresh": fresh(tables, TABLES / "fresh"),
        "far_by_prompt": far_by_prompt(tables[FAR]),
        "ceiling_of_one_model": {
            NEAR: ceiling_of_one_model(
                tables[NEAR], Table.read(TABLES / "fresh" / f"{NEAR}.jsonl.gz"), "bbh"
            )
        },
        "each_feature_alone": each_feature(tables),
        "ceilings_five_folds": ceilings(tables),
        "everyday": everyday(tables, said),
        "sampled": sampled(tables, said, TABLES / "sampled"),
        "second_look": second_look(tables, said, TABLES / "sampled"),
        "given_up_early": given_up_early(tables, said),
        "wording": wording(tables, said),
        "machine": {"python": platform.python_version(), "numpy": np.__version__},
    }
    Path(__file__).with_suffix(".json").write_text(
        json.dumps(report, indent=1, allow_nan=False) + "\n"
    )


if __name__ == "__main__":
    main()
