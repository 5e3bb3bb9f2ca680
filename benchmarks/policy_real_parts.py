"""Figures of benchmarks/policy_real.py, part by part; each as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from benchmarks.policy_real_fits import (
    FAR_RIGHT,
    FEATURE_SIGNS,
    MIN_GAIN,
    Table,
)
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.deferral_curve import Outcomes
from offload.policy.serving.answer_features import NAMES
from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import sigmoid

RESAMPLES = 400


def left_out(tables: Mapping[str, Table], said: Mapping[str, Floats]) -> dict[str, object]:
    """Return how well right is told from wrong on each model and set that was left out.

    `said` are the scores of each model's answers, left out (scores_left_out).
    """
    found: dict[str, object] = {}
    won = pairs = 0
    for name, table in tables.items():
        scores, singles = said[name], table.signals()
        by_set = {str(each): _auroc_in(scores, table, each) for each in np.unique(table.sets)}
        best = _best_single(tables, name)
        of_best = {each: _auroc_in(singles[best], table, each) for each in by_set}
        known = [each for each, value in by_set.items() if value is not None]
        pairs += len(known)
        won += sum(by_set[each] > of_best[each] for each in known)  # type: ignore[operator]
        chances = sigmoid(scores)
        found[name] = {
            "auroc": deferral_curve.auroc(scores, table.right),
            "auroc_within_sets": within_sets(scores, table),
            "auroc_of_pairs_within_sets": pairs_within_sets(scores, table),
            "interval95": _spread(table, lambda at, s=scores, t=table: within_sets(s, t, at)),
            "singles_within_sets": {each: within_sets(v, table) for each, v in singles.items()},
            "singles_of_pairs_within_sets": {
                e: pairs_within_sets(v, table) for e, v in singles.items()
            },
            "singles_over_all": {
                e: deferral_curve.auroc(v, table.right) for e, v in singles.items()
            },
            "best_single_on_the_others": best,
            "sets": by_set,
            "ece": deferral_curve.ece(chances, table.right),
            "ece_interval95": _spread(
                table, lambda at, c=chances, t=table: deferral_curve.ece(c[at], t.right[at])
            ),
        }
    found["above_the_best_single"] = {"pairs": pairs, "won": won}
    return found


def _best_single(tables: Mapping[str, Table], name: str) -> str:
    """Return the single signal that is best within sets on the other models."""
    others = [table for other, table in tables.items() if other != name]
    means = {
        signal: np.mean([within_sets(table.signals()[signal], table) or 0.5 for table in others])
        for signal in others[0].signals()
    }
    return max(means, key=lambda each: means[each])


def _auroc_in(scores: Floats, table: Table, name: str) -> float | None:
    here = table.sets == name
    right = table.right[here]
    return None if right.min() == right.max() else deferral_curve.auroc(scores[here], right)


def within_sets(
    scores: Floats, table: Table, at: npt.NDArray[np.int64] | None = None
) -> float | None:
    """Return the mean AUROC over the sets that hold right and wrong answers; None without any."""
    picked = table if at is None else None
    sets = table.sets if picked else table.sets[at]
    right = table.right if picked else table.right[at]
    scores = scores if picked else scores[at]
    found = []
    for name in np.unique(sets):
        here = sets == name
        if right[here].min() != right[here].max():
            found.append(deferral_curve.auroc(scores[here], right[here]))
    return float(np.mean(found)) if found else None


def pairs_within_sets(scores: Floats, table: Table) -> float:
    """Return the share of pairs of one set, a right and a wrong answer, in the right order.

    Sets of few questions count little, so it is less a matter of luck than the mean over sets.
    """
    good = total = 0.0
    for name in np.unique(table.sets):
        here = table.sets == name
        right = table.right[here]
        number = float(right.sum() * (len(right) - right.sum()))
        good += number * deferral_curve.auroc(scores[here], right)
        total += number
    return good / total


def _spread(table: Table, measure: object) -> list[float]:
    generator, total, drawn = np.random.default_rng(0), len(table.right), []
    for _ in range(RESAMPLES):
        value = measure(generator.integers(0, total, total))  # type: ignore[operator]
        if value is not None:
            drawn.append(value)
    return [float(each) for each in np.quantile(drawn, (0.025, 0.975))]


def real_pair(
    tables: Mapping[str, Table], said: Mapping[str, Floats], *, near: str, far: str
) -> dict[str, object]:
    """Return the way from random to perfect self-knowledge, near answers scored left out."""
    table, known = tables[near], {row.id: row.right for row in tables[far].rows}
    both = np.array([row.id in known for row in table.rows])
    scores = said[near][both]
    right = table.right[both]
    strong = np.array([known[row.id] for row in table.rows if row.id in known], dtype=np.float64)
    truth = Outcomes(right, strong)
    perfect = deferral_curve.ceilings(truth)["self_knowledge"].apgr
    singles = {name: -value[both] for name, value in table.signals().items()}
    ours = {"rule": -scores, **singles}
    went = {
        "rule": FAR_RIGHT - sigmoid(scores) > MIN_GAIN,
        "least_below_-0.7": table.signals()["least"][both] < -0.7,
    }
    apgr = {name: deferral_curve.deferral_curve(need, truth).apgr for name, need in ours.items()}
    return {
        "questions": int(both.sum()),
        "accuracy_near": float(right.mean()),
        "accuracy_far": float(strong.mean()),
        "auto": {
            name: {
                "asked_far": float(far_ones.mean()),
                "right": float(np.where(far_ones, strong, right).mean()),
                "wrong_of_kept": None if far_ones.all() else float(1.0 - right[~far_ones].mean()),
            }
            for name, far_ones in went.items()
        },
        "apgr": apgr,
        "apgr_interval95": deferral_curve.intervals(-scores, truth, resamples=RESAMPLES)["apgr"],
        "apgr_perfect_self_knowledge": perfect,
        "way": {name: (value - 0.5) / (perfect - 0.5) for name, value in apgr.items()},
    }


def each_feature(tables: Mapping[str, Table]) -> dict[str, dict[str, float | None]]:
    """Return the share of pairs within sets put right by each feature alone, by its sign."""
    return {
        name: {
            feature: pairs_within_sets((FEATURE_SIGNS[at] or 1.0) * table.features[:, at], table)
            for at, feature in enumerate(NAMES)
        }
        for name, table in tables.items()
    }


def ceilings(tables: Mapping[str, Table]) -> dict[str, dict[str, float | None]]:
    """Return the share of pairs within sets put right by models fitted to the same table.

    Five folds of questions: what a linear model and trees could reach with labels of this model.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression

    found: dict[str, dict[str, float | None]] = {}
    for name, table in tables.items():
        rows = np.column_stack([table.features, *table.signals().values()])
        rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-6)
        folds = np.random.default_rng(0).integers(0, 5, len(rows))
        said = {"linear": np.zeros(len(rows)), "trees": np.zeros(len(rows))}
        for fold in range(5):
            inside, outside = folds != fold, folds == fold
            linear = LogisticRegression(C=0.05, max_iter=2000).fit(
                rows[inside], table.right[inside]
            )
            trees = RandomForestClassifier(300, min_samples_leaf=5, random_state=0)
            trees.fit(rows[inside], table.right[inside])
            said["linear"][outside] = linear.predict_proba(rows[outside])[:, 1]
            said["trees"][outside] = trees.predict_proba(rows[outside])[:, 1]
        found[name] = {each: pairs_within_sets(value, table) for each, value in said.items()}
    return found


def everyday(
    tables: Mapping[str, Table], said: Mapping[str, Floats]
) -> dict[str, dict[str, float]]:
    """Return how many everyday prompts go far, and how bad those kept are, each model left out."""
    found = {}
    for name, table in tables.items():
        here = np.char.startswith(table.sets, "everyday/")
        if not here.any():
            continue
        chances = sigmoid(said[name])[here]
        kept, right = FAR_RIGHT - chances <= MIN_GAIN, table.right[here]
        found[name] = {
            "prompts": int(here.sum()),
            "good_near": float(right.mean()),
            "sent_far": float(1.0 - kept.mean()),
            "bad_among_kept": float(1.0 - right[kept].mean()) if kept.any() else 0.0,
            "auroc": deferral_curve.auroc(chances, right),
        }
    return found
