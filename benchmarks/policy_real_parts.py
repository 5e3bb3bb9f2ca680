"""Parts of benchmarks/policy_real.py: what it fits and measures, each as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from offload.policy.fitting import deferral_curve
from offload.policy.fitting.answer_scorer import fit_signed
from offload.policy.fitting.answer_table import AnswerRow, mark_of, read_answers
from offload.policy.fitting.deferral_curve import Outcomes
from offload.policy.fitting.table_replay import decide_rows
from offload.policy.serving.answer_features import NAMES, PROMPT_NAMES, PROMPT_SIGNS, SIGNS
from offload.policy.serving.features import Floats
from offload.policy.serving.first_day import SHIPPED, VERSION, FirstDayFile, FirstDayRule, FittedOn
from offload.policy.serving.logistic import Scorer, sigmoid

PENALTIES = (10.0, 30.0, 100.0, 300.0)
MIN_GAIN = 0.4  # asking far must be worth this much to plain auto; see docs/policy.md
FAR_RIGHT = 0.83  # how often published strong models are right (RouteLLM's MMLU and GSM8K outcomes)
RESAMPLES = 400
_SIGNS = np.array(list(SIGNS.values()), dtype=np.float64)
# What the checks mean, said beforehand: few answers of the sets fitted to may show it.
PRIOR = {
    "form_missed": -1.0,
    "circles": -2.0,
    "reached": 1.5,
    "repeated": -0.5,
    "negative": -1.5,
    "fraction": -1.0,
    "sums_right": 0.5,
    "sums_wrong": -1.5,
    "follows_working": 0.5,
    "option_unknown": -2.0,
    "option_missed": -2.0,
    "option_misquoted": -1.0,
    "listed_missed": -2.0,
}
_PRIOR = np.array([PRIOR.get(name, 0.0) for name in NAMES])
_PROMPT_SIGNS = np.array(list(PROMPT_SIGNS.values()), dtype=np.float64)

Picks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Table:
    """One near model's answers: features [rows, features], and whether each is right [rows]."""

    rows: list[AnswerRow]
    features: Floats
    prompts: Floats
    right: Floats
    sets: npt.NDArray[np.str_]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a table of answers that keeps its measures."""
        rows, _ = read_answers(path)
        return cls(
            rows=rows,
            features=np.array([[row.measures[name] for name in NAMES] for row in rows]),
            prompts=np.array([[row.measures[name] for name in PROMPT_NAMES] for row in rows]),
            right=np.array([row.right for row in rows], dtype=np.float64),
            sets=np.array([row.set for row in rows]),
        )

    def kept(self, picks: Picks) -> Table:
        """Return some of its rows."""
        rows = [row for row, picked in zip(self.rows, picks, strict=True) if picked]
        return Table(
            rows, self.features[picks], self.prompts[picks], self.right[picks], self.sets[picks]
        )

    def signals(self) -> dict[str, Floats]:
        """Return the single signals of every answer, the higher the surer."""
        tokens = [_numbers(row) for row in self.rows]
        return {
            "least": np.array([each[:, 0].min() for each in tokens]),
            "mean_logprob": np.array([each[:, 0].mean() for each in tokens]),
            "mean_margin": np.array([each[:, 2].mean() for each in tokens]),
            "sum_logprob": np.array([each[:, 0].sum() for each in tokens]),
            "tenth_logprob": np.array([np.quantile(each[:, 0], 0.1) for each in tokens]),
            "mean_entropy": np.array([-each[:, 1].mean() for each in tokens]),
            "length": np.array([-float(len(each)) for each in tokens]),
        }


def _numbers(row: AnswerRow) -> Floats:
    """Return an answer's log-probabilities, entropies and margins, [tokens, 3]."""
    return np.array([(e.logprob, e.entropy, e.margin) for e in row.tokens] or [(0.0, 0.0, 0.0)])


def fitted(tables: Sequence[Table]) -> Scorer:
    """Fit to some tables; the ridge is the one that is best on models and sets left out of them."""
    losses = [_inner_loss(tables, penalty) for penalty in PENALTIES]
    return _fit(tables, PENALTIES[int(np.argmin(losses))])


def _fit(tables: Sequence[Table], penalty: float) -> Scorer:
    rows = np.vstack([each.features for each in tables])
    labels = np.concatenate([each.right for each in tables])
    # Each model counts alike, however many answers it gave.
    weights = np.concatenate([np.full(len(e.right), 1.0 / len(e.right)) for e in tables])
    weights *= len(labels) / weights.sum()
    return fit_signed(NAMES, rows, labels, _SIGNS, penalty=penalty, weights=weights, prior=_PRIOR)


def _inner_loss(tables: Sequence[Table], penalty: float) -> float:
    """Return the mean log loss on each group of sets, left out in turn."""
    names = sorted({str(name) for table in tables for name in table.sets})
    losses = []
    for part in range(4):
        out = np.array(names[part::4])
        inside = [table.kept(~np.isin(table.sets, out)) for table in tables]
        tested = [table.kept(np.isin(table.sets, out)) for table in tables]
        if any(len(each.right) == 0 for each in (*inside, *tested)):
            continue
        scorer = _fit(inside, penalty)
        for each in tested:
            score = scorer.many(each.features)
            losses.append(float(np.mean(np.logaddexp(0.0, score) - each.right * score)))
    return float(np.mean(losses))


def scores_left_out(tables: Mapping[str, Table], name: str) -> Floats:
    """Return the score of each answer of a model by what other models' other sets taught."""
    table = tables[name]
    scores = np.zeros(len(table.right))
    for out in np.unique(table.sets):
        others = [
            each.kept(~_same_source(each.sets, out)) for n, each in tables.items() if n != name
        ]
        here = table.sets == out
        scores[here] = fitted(others).many(table.features[here])
    return scores


def _same_source(sets: npt.NDArray[np.str_], out: str) -> Picks:
    """Say which rows are of a set, or of the other half of the everyday prompts."""
    if out.startswith("everyday/"):
        return np.char.startswith(sets, "everyday/")
    return sets == out


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
            "auroc_within_sets": _within(scores, table),
            "auroc_of_pairs_within_sets": pairs_within_sets(scores, table),
            "interval95": _spread(table, lambda at, s=scores, t=table: _within(s, t, at)),
            "singles_within_sets": {each: _within(v, table) for each, v in singles.items()},
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
        signal: np.mean([_within(table.signals()[signal], table) or 0.5 for table in others])
        for signal in others[0].signals()
    }
    return max(means, key=lambda each: means[each])


def _auroc_in(scores: Floats, table: Table, name: str) -> float | None:
    here = table.sets == name
    right = table.right[here]
    return None if right.min() == right.max() else deferral_curve.auroc(scores[here], right)


def _within(scores: Floats, table: Table, at: npt.NDArray[np.int64] | None = None) -> float | None:
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
            feature: pairs_within_sets((_SIGNS[at] or 1.0) * table.features[:, at], table)
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


def ship(tables: Mapping[str, Table], *, far: Table) -> None:
    """Fit to every table and write the weights that ship."""
    every = list(tables.values())
    near = fitted(every)
    prompts = np.vstack([each.prompts for each in every])
    right = np.concatenate([each.right for each in every])
    near_by_prompt = fit_signed(PROMPT_NAMES, prompts, right, _PROMPT_SIGNS, penalty=30.0)
    known = fit_signed(PROMPT_NAMES, far.prompts, far.right, _PROMPT_SIGNS, penalty=30.0)
    far_by_prompt = _raised(known, far.prompts, FAR_RIGHT)
    questions = sorted({mark for table in every for row in table.rows if (mark := mark_of(row))})
    file = FirstDayFile(
        version=VERSION,
        near=_rounded(near),
        near_by_prompt=_rounded(near_by_prompt),
        far_by_prompt=_rounded(far_by_prompt),
        min_gain=MIN_GAIN,
        needs=(),
        fitted_on=FittedOn(
            models=tuple(sorted({row.model for table in every for row in table.rows})),
            sets=tuple(sorted({str(name) for table in every for name in table.sets})),
            questions=tuple(questions),
        ),
    )
    needs = np.concatenate([decide_rows(FirstDayRule(file), table.rows).need for table in every])
    spread = np.quantile(needs, np.linspace(0.0, 1.0, 101))
    file = msgspec.structs.replace(file, needs=tuple(round(float(each), 4) for each in spread))
    SHIPPED.write_bytes(msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")


def _raised(scorer: Scorer, prompts: Floats, mean: float) -> Scorer:
    """Move a scorer's bias so that its probabilities have this mean."""
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if float(sigmoid(scorer.many(prompts) + middle).mean()) < mean:
            low = middle
        else:
            high = middle
    return msgspec.structs.replace(scorer, bias=scorer.bias + low)


def _rounded(scorer: Scorer) -> Scorer:
    weights = tuple(round(each, 5) for each in scorer.weights)
    return msgspec.structs.replace(scorer, weights=weights, bias=round(scorer.bias, 5))
