"""Policy learnt without labels against labels: how well each ranks answers it was not fitted to.

On the tables of benchmarks/policy_real a near model's answers are labelled by the truth, or by
whether they give what the far model's answer gives. From 200 of either a policy is fitted, and
judged by the truth on the rest; splits are drawn anew. Nothing of the near model is in the weights
that fitting starts from. Learning in use is replayed beside it (policy_learn_use.py).
Needs the questions of the tables: `--questions FOLDER` of JSON lines.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.policy_learn_use import (  # noqa: E402
    change_noticed,
    learnt_in_use,
    worse_far_noticed,
)
from benchmarks.policy_real_fits import Table, fitted, scores_left_out  # noqa: E402
from benchmarks.policy_real_parts import pairs_within_sets  # noqa: E402
from offload.errors import RequestError  # noqa: E402
from offload.policy.fitting import deferral_curve  # noqa: E402
from offload.policy.fitting.answer_table import AnswerRow  # noqa: E402
from offload.policy.fitting.calibrator import (  # noqa: E402
    CalibrationOptions,
    calibrate,
    judged,
)
from offload.policy.fitting.labelled_questions import LabelledRow  # noqa: E402
from offload.policy.fitting.questions import Question, read_questions  # noqa: E402
from offload.policy.serving.features import Floats, Ints  # noqa: E402
from offload.policy.serving.logistic import Scorer  # noqa: E402
from offload.policy.serving.policy_file import Pairing  # noqa: E402

TABLES = Path(__file__).with_name("policy_real")
FAR, NEAR = "Qwen2.5-Coder-1.5B", ("Qwen2.5-Coder-0.5B", "SmolLM2-135M")
NUM_LABELS, NUM_SPLITS = 200, 20
PAIRING = Pairing(
    edge_model="near", edge_hash="", quantization="", kv_cache_dtype="f16", cloud_model="far"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=Path, required=True)
    folder = parser.parse_args().questions
    questions = {q.id: q for path in sorted(folder.glob("*.jsonl")) for q in read_questions(path)}
    tables = {name: Table.read(TABLES / f"{name}.jsonl.gz") for name in (*NEAR, FAR)}
    report = {
        "labels": NUM_LABELS,
        "splits": NUM_SPLITS,
        "models": {name: measured(tables, name, questions) for name in NEAR},
        "in_use": {name: learnt_in_use(tables, name, FAR) for name in NEAR},
        "in_use_word_problems_unseen": {
            name: learnt_in_use(tables, name, FAR, without=("svamp", "gsm8k")) for name in NEAR
        },
        "far_is_worse": worse_far_noticed(tables),
        "change_of_the_far_model": change_noticed(tables, NEAR[0], FAR, NEAR[1]),
        "machine": {"python": platform.python_version(), "numpy": np.__version__},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


def measured(
    tables: Mapping[str, Table], near: str, questions: Mapping[str, Question]
) -> dict[str, object]:
    """Return what is known of the labels, and each way's AUROC with its spread over the splits."""
    far = {row.id: row for row in tables[FAR].rows}
    whole = tables[near]
    picks = np.array(
        [
            row.id in questions and bool(far[row.id].given) if row.id in far else False
            for row in whole.rows
        ]
    )
    table, first_day = whole.kept(picks), scores_left_out(tables, near)[picks]
    agree = np.array([bool(r.given) and r.given == far[r.id].given for r in table.rows])
    start = fitted([each for name, each in tables.items() if name != near])
    prompts = [questions[row.id] for row in table.rows]
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in range(NUM_SPLITS):
        order = np.random.default_rng(seed).permutation(len(table.rows))
        fit, held = np.sort(order[:NUM_LABELS]), np.sort(order[NUM_LABELS:])
        rest = table.kept(np.isin(np.arange(len(order)), held))

        def note(way: str, scores: Floats | None, rest: Table = rest) -> None:
            if scores is not None:
                auroc = deferral_curve.auroc(scores, rest.right)
                found[way].append((auroc, pairs_within_sets(scores, rest)))

        note("first day, model and set left out", first_day[held])
        note("first day, model left out", start.many(rest.features))
        truth = table.right > 0
        plain = [msgspec.structs.replace(row, measures={}) for row in table.rows]
        note("truth, signals and prior", _learnt(plain, prompts, truth, fit, held, seed, start))
        note("truth", _learnt(table.rows, prompts, truth, fit, held, seed, start))
        note("far answers", _learnt(table.rows, prompts, agree, fit, held, seed, start))
    return {
        "answers": len(table.rows),
        "near_right": float(table.right.mean()),
        "says_what_far_says": float(agree.mean()),
        "label_is_truth": float((agree == (table.right > 0)).mean()),
        "right_where_it_agrees": float(table.right[agree].mean()),
        "right_where_it_does_not": float(table.right[~agree].mean()),
        "auroc": {way: _told([each[0] for each in kept]) for way, kept in found.items()},
        "pairs_within_sets": {
            way: _told([each[1] for each in kept]) for way, kept in found.items()
        },
    }


def _learnt(
    rows: list[AnswerRow],
    prompts: list[Question],
    right: np.ndarray,
    fit: Ints,
    held: Ints,
    seed: int,
    start: Scorer,
) -> Floats | None:
    """Return the scores of the held answers; None where so few labels of one kind teach nothing."""
    labels = [
        LabelledRow(near=msgspec.structs.replace(rows[at], right=bool(right[at])), far_right=True)
        for at in fit
    ]
    options = CalibrationOptions(use_probe=False, seed=seed)
    try:
        rule = calibrate([prompts[at] for at in fit], labels, PAIRING, options, start=start)
    except RequestError:
        return None
    said = (
        judged(rule, prompts[at].question, LabelledRow(near=rows[at], far_right=True))
        for at in held
    )
    return np.array([each.score for each in said])


def _told(values: list[float]) -> dict[str, float]:
    low, high = np.quantile(values, (0.1, 0.9))
    return {
        "mean": round(float(np.mean(values)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "splits": len(values),
    }


if __name__ == "__main__":
    main()
