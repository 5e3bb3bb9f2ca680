"""How well the prior routes on published outcomes, beside plain tf-idf, random and an oracle.

    python benchmarks/routing.py [--seeds 10] [--only-splits]

Needs the outcome tables in ../shared/data/routing. Writes routing.json beside itself, where
`rows_chosen_on` says which figures stand on rows that the prior's design was chosen with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from offload.policy.fitting import deferral_curve  # noqa: E402
from offload.policy.fitting.evaluate import (  # noqa: E402
    OutcomeRow,
    as_outcomes,
    read_outcomes,
    split_tables,
)
from offload.policy.serving.features import Floats  # noqa: E402
from offload.policy.serving.prior import DefaultPrior, GainPredictor, Prior  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "routing"
SPLIT_SEED, LABELS = 12345, 1500
ROWS_CHOSEN_ON = {
    "mmlu.prior": "none of the scored rows: measures, bandwidths and weights were chosen on the "
    "other half, after some hundred variants",
    "mmlu.unseen_subjects_prior": "half of the scored rows; each quarter unseen by its own fit",
    "gsm8k": "all rows: the measures of quantities and answers were chosen with their labels in "
    "view, so these figures are optimistic; no row is scored by a prior fitted on it",
    "default_without_labels": "none: weights set by hand before they were measured",
}
Rows = list[OutcomeRow]
Fit = Callable[[Rows, Rows, int], GainPredictor]


def ours(train: Rows, test: Rows, seed: int) -> Prior:
    return _fit(train, test, seed)


def tfidf(train: Rows, test: Rows, seed: int) -> Prior:
    return _fit(train, test, seed, use_measures=False)


def with_answers(train: Rows, test: Rows, seed: int) -> Prior:
    return _fit(train, test, seed, reads_answers=True)


def _fit(
    train: Rows, test: Rows, seed: int, *, use_measures: bool = True, reads_answers: bool = False
) -> Prior:
    tables = split_tables(test, train, labels=LABELS, seed=seed)
    rows = tables.labelled
    return Prior.fit(
        [row.prompt for row in rows],
        [row.weak_correct for row in rows],
        [row.strong_correct for row in rows],
        answers=[row.weak_response for row in rows] if reads_answers else None,
        unlabelled=[row.prompt for row in tables.unlabelled],
        use_measures=use_measures,
    )


def gains(prior: GainPredictor, rows: Rows) -> Floats:
    return np.array([prior.gain(row.prompt, row.weak_response) for row in rows])


def over_seeds(fit: Fit, train: Rows, test: Rows, seeds: int) -> dict[str, object]:
    """Fit on the labels that each seed draws, and score the same held-out rows every time."""
    truth, found, last = as_outcomes(test), [], np.zeros(len(test))
    for seed in range(seeds):
        last = gains(fit(train, test, seed), test)
        found.append(deferral_curve.figures(deferral_curve.deferral_curve(last, truth)))
        print(fit.__name__, seed, found[-1], file=sys.stderr, flush=True)
    return {
        "mean": {name: float(np.mean([each[name] for each in found])) for name in found[0]},
        "std": {name: float(np.std([each[name] for each in found])) for name in found[0]},
        "interval95_last_seed": deferral_curve.intervals(last, truth),
    }


def crossed(fit: Fit, folds: Sequence[Rows]) -> dict[str, object]:
    """Score each fold with a prior fitted on the others; figures of all scores together."""
    scores, apart = [], []
    for place, fold in enumerate(folds):
        others = [row for other, rows in enumerate(folds) if other != place for row in rows]
        scores.append(gains(fit(others, fold, place), fold))
        curve = deferral_curve.deferral_curve(scores[-1], as_outcomes(fold))
        apart.append({"apgr": curve.apgr, "rows": len(fold)})
    truth, pooled = as_outcomes([row for fold in folds for row in fold]), np.concatenate(scores)
    figures = deferral_curve.figures(deferral_curve.deferral_curve(pooled, truth))
    print(fit.__name__, figures, apart, file=sys.stderr, flush=True)
    return {
        "pooled": figures,
        "interval95": deferral_curve.intervals(pooled, truth),
        "folds": apart,
    }


def mmlu(seeds: int) -> dict[str, object]:
    rows = read_outcomes(DATA / "mmlu_outcomes.jsonl")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    chosen_on = [rows[place] for place in order[: len(rows) // 2]]
    held = [rows[place] for place in order[len(rows) // 2 :]]
    subjects = np.array_split(sorted({row.task for row in rows}), 4)
    quarters = [[row for row in rows if row.task in set(names)] for names in subjects]
    return {
        "labels": LABELS,
        "scored": len(held),
        "prior": over_seeds(ours, chosen_on, held, seeds),
        "tfidf_two_heads": over_seeds(tfidf, chosen_on, held, seeds),
        "default_without_labels": _figures(DefaultPrior(), held),
        "ceilings": _ceilings(held),
        "unseen_subjects_prior": crossed(ours, quarters),
    }


def gsm8k() -> dict[str, object]:
    rows = read_outcomes(DATA / "gsm8k_outcomes.jsonl")
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows))
    folds = [[rows[place] for place in order[start::5]] for start in range(5)]
    return {
        "labels": len(rows) - len(folds[0]),
        "scored": len(rows),
        "prior": crossed(ours, folds),
        "prior_with_near_answer": crossed(with_answers, folds),
        "tfidf_two_heads": crossed(tfidf, folds),
        "default_without_labels": _figures(DefaultPrior(), rows),
        "ceilings": _ceilings(rows),
    }


def over_splits(seeds: int = 5) -> dict[str, object]:
    """Repeat the five folds of GSM8K over other shuffles: how much of a figure is the split's."""
    rows = read_outcomes(DATA / "gsm8k_outcomes.jsonl")
    found: dict[str, list[float]] = {"prior": [], "tfidf_two_heads": []}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(rows))
        folds = [[rows[place] for place in order[start::5]] for start in range(5)]
        for name, fit in (("prior", ours), ("tfidf_two_heads", tfidf)):
            pooled = crossed(fit, folds)["pooled"]
            assert isinstance(pooled, dict), "figures by name"
            found[name].append(pooled["apgr"])
    return {
        name: {"apgr": each, "mean": float(np.mean(each)), "std": float(np.std(each))}
        for name, each in found.items()
    }


def decision_ms() -> dict[str, float]:
    """Return the CPU time of one decision, batch of one, on held-out MMLU prompts."""
    rows = read_outcomes(DATA / "mmlu_outcomes.jsonl")[::2]
    prior, spent = ours(rows[::2], rows[1::2], 0), []
    for row in rows[1:4000:2]:
        began = time.thread_time_ns()
        prior.gain(row.prompt)
        spent.append((time.thread_time_ns() - began) / 1e6)
    return {f"p{at}": float(np.quantile(spent, at / 100)) for at in (50, 95, 99)}


def _figures(prior: GainPredictor, rows: Rows) -> dict[str, float]:
    return deferral_curve.figures(
        deferral_curve.deferral_curve(gains(prior, rows), as_outcomes(rows))
    )


def _ceilings(rows: Rows) -> dict[str, dict[str, float]]:
    found = deferral_curve.ceilings(as_outcomes(rows))
    return {name: deferral_curve.figures(curve) for name, curve in found.items()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only-splits", action="store_true", help="repeat GSM8K's splits only")
    arguments = parser.parse_args()
    seeds, target = arguments.seeds, Path(__file__).with_suffix(".json")
    if not DATA.is_dir():
        print(f"skipped: {DATA} is not here")
        return
    if arguments.only_splits:
        report = json.loads(target.read_text()) | {"gsm8k_over_splits": over_splits()}
        target.write_text(f"{json.dumps(report, indent=1)}\n")
        return
    report = {
        "mmlu": mmlu(seeds),
        "gsm8k": gsm8k(),
        "gsm8k_over_splits": over_splits(),
        "decision_cpu_ms": decision_ms(),
        "load_average": os.getloadavg()[0],
        "seeds": seeds,
        "split_seed": SPLIT_SEED,
        "rows_chosen_on": ROWS_CHOSEN_ON,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    target.write_text(f"{json.dumps(report, indent=1)}\n")


if __name__ == "__main__":
    main()
