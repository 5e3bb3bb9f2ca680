"""Rule of the first day on questions that nothing was chosen by, and P(far right) by the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.policy_real_fits import Table, left_out_of, scores_left_out
from benchmarks.policy_real_parts import pairs_within_sets, within_sets
from offload.policy.fitting import deferral_curve
from offload.policy.fitting.answer_scorer import fit_signed
from offload.policy.serving.answer_features import PROMPT_NAMES, PROMPT_SIGNS
from offload.policy.serving.features import Floats
from offload.policy.serving.logistic import log_odds, sigmoid

RESAMPLES = 400
_KINDS = ("everyday", "bbh", "svamp", "")


def fresh(tables: Mapping[str, Table], folder: Path) -> dict[str, object]:
    """Return how the rule judges fresh answers, by kind of set; each model and set left out.

    The features and the ridge were settled before these answers were made; none is fitted to.
    """
    found: dict[str, object] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        name, table = path.name.removesuffix(".jsonl.gz"), Table.read(path)
        scores = scores_left_out(tables, name, judged=table)
        kinds = {kind: np.char.startswith(table.sets, kind) for kind in _KINDS}
        found[name] = {
            kind or "all": _judged(scores[here], table.kept(here))
            for kind, here in kinds.items()
            if 0.0 < table.right[here].sum() < here.sum()
        }
    return found


def _judged(scores: Floats, table: Table) -> dict[str, object]:
    right, singles = table.right, table.signals()
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, len(right), len(right)) for _ in range(RESAMPLES)]
    return {
        "answers": len(right),
        "right": float(right.mean()),
        "auroc": deferral_curve.auroc(scores, right),
        "auroc_interval95": [
            round(float(each), 4)
            for each in np.nanquantile(
                [deferral_curve.auroc(scores[at], right[at]) for at in drawn], (0.025, 0.975)
            )
        ],
        "pairs_within_sets": pairs_within_sets(scores, table),
        "ece": deferral_curve.ece(sigmoid(scores), right),
        "singles_auroc": {k: deferral_curve.auroc(v, right) for k, v in singles.items()},
        "singles_pairs_within_sets": {k: pairs_within_sets(v, table) for k, v in singles.items()},
        "sets": {
            str(each): deferral_curve.auroc(scores[here], right[here])
            for each in np.unique(table.sets)
            if 5 <= right[here := table.sets == each].sum() <= here.sum() - 5
        },
    }


def ceiling_of_one_model(table: Table, fresh: Table, kind: str) -> dict[str, object]:
    """Return what trees tell within the sets of a kind, learning from the same model on those sets.

    Five folds of questions; the sets are known to the trees. Needs scikit-learn.
    """
    from sklearn.ensemble import RandomForestClassifier

    both = Table(
        [*table.rows, *fresh.rows],
        np.vstack([table.features, fresh.features]),
        np.vstack([table.prompts, fresh.prompts]),
        np.concatenate([table.right, fresh.right]),
        np.concatenate([table.sets, fresh.sets]),
    )
    both = both.kept(np.char.startswith(both.sets, kind))
    known = np.column_stack([both.sets == each for each in np.unique(both.sets)])
    rows = np.column_stack([both.features, *both.signals().values(), known])
    folds, said = np.random.default_rng(0).integers(0, 5, len(rows)), np.zeros(len(rows))
    for fold in range(5):
        inside = folds != fold
        trees = RandomForestClassifier(200, min_samples_leaf=5, random_state=0)
        trees.fit(rows[inside], both.right[inside])
        said[~inside] = trees.predict_proba(rows[~inside])[:, 1]
    generator = np.random.default_rng(0)
    drawn = [generator.integers(0, len(rows), len(rows)) for _ in range(RESAMPLES)]
    means = [value for at in drawn if (value := within_sets(said, both, at)) is not None]
    return {
        "answers": len(rows),
        "trees_within_sets": within_sets(said, both),
        "trees_interval95": [float(each) for each in np.quantile(means, (0.025, 0.975))],
        "singles_within_sets": {k: within_sets(v, both) for k, v in both.signals().items()},
    }


def far_by_prompt(far: Table, penalty: float = 30.0) -> dict[str, float]:
    """Return what the prompt tells of P(far right) on sets left out, beside one constant for all.

    The constant is the far model's accuracy on the other sets.
    """
    scores, constant = np.zeros(len(far.right)), np.zeros(len(far.right))
    signs = np.array(list(PROMPT_SIGNS.values()), dtype=np.float64)
    for out in np.unique(far.sets):
        here, rest = far.sets == out, far.kept(left_out_of(far, out))
        fit = fit_signed(PROMPT_NAMES, rest.prompts, rest.right, signs, penalty=penalty)
        scores[here], constant[here] = fit.many(far.prompts[here]), log_odds(rest.right.mean())
    return {
        "auroc": deferral_curve.auroc(scores, far.right),
        "log_loss": _loss(scores, far.right),
        "log_loss_of_a_constant": _loss(constant, far.right),
    }


def _loss(scores: Floats, right: Floats) -> float:
    return float(np.mean(np.logaddexp(0.0, scores) - right * scores))
