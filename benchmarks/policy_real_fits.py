"""Fits of benchmarks/policy_real.py: answer tables, the rule fitted to them, what ships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from offload.policy.fitting.answer_scorer import fit_signed
from offload.policy.fitting.answer_table import AnswerRow, mark_of, read_answers
from offload.policy.fitting.table_replay import decide_rows
from offload.policy.learning.refit import raised
from offload.policy.serving.answer_features import NAMES, PROMPT_NAMES, PROMPT_SIGNS, SIGNS
from offload.policy.serving.features import Floats
from offload.policy.serving.first_day import SHIPPED, VERSION, FirstDayFile, FirstDayRule, FittedOn
from offload.policy.serving.logistic import Scorer

PENALTIES = (10.0, 30.0, 100.0, 300.0)
MIN_GAIN = 0.4  # asking far must be worth this much to plain auto; see docs/policy.md
FAR_RIGHT = 0.83  # how often published strong models are right (RouteLLM's MMLU and GSM8K outcomes)
FEATURE_SIGNS = np.array(list(SIGNS.values()), dtype=np.float64)
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


def fitted(tables: Sequence[Table], doubts: tuple[str, ...] = ()) -> Scorer:
    """Fit to some tables; the ridge is the one that is best on models and sets left out of them.

    doubts: names of columns behind the usual features; the higher, the likelier wrong.
    """
    losses = [_inner_loss(tables, penalty, doubts) for penalty in PENALTIES]
    return _fit(tables, PENALTIES[int(np.argmin(losses))], doubts)


def _fit(tables: Sequence[Table], penalty: float, doubts: tuple[str, ...]) -> Scorer:
    rows = np.vstack([each.features for each in tables])
    labels = np.concatenate([each.right for each in tables])
    # Each model counts alike, however many answers it gave.
    weights = np.concatenate([np.full(len(e.right), 1.0 / len(e.right)) for e in tables])
    weights *= len(labels) / weights.sum()
    return fit_signed(
        (*NAMES, *doubts),
        rows,
        labels,
        np.append(FEATURE_SIGNS, -np.ones(len(doubts))),
        penalty=penalty,
        weights=weights,
        prior=np.append(_PRIOR, np.zeros(len(doubts))),
    )


def _inner_loss(tables: Sequence[Table], penalty: float, doubts: tuple[str, ...]) -> float:
    """Return the mean log loss on each group of sets, left out in turn."""
    names = sorted({str(name) for table in tables for name in table.sets})
    losses = []
    for part in range(4):
        out = np.array(names[part::4])
        inside = [table.kept(~np.isin(table.sets, out)) for table in tables]
        tested = [table.kept(np.isin(table.sets, out)) for table in tables]
        if any(len(each.right) == 0 for each in (*inside, *tested)):
            continue
        scorer = _fit(inside, penalty, doubts)
        for each in tested:
            score = scorer.many(each.features)
            losses.append(float(np.mean(np.logaddexp(0.0, score) - each.right * score)))
    return float(np.mean(losses))


def scores_left_out(
    tables: Mapping[str, Table],
    name: str,
    doubts: tuple[str, ...] = (),
    *,
    judged: Table | None = None,
) -> Floats:
    """Return the score of each answer of a model by what other models' other sets taught.

    doubts: see fitted(). judged: other answers of that model, in place of those in its table.
    """
    table = judged or tables[name]
    scores = np.zeros(len(table.right))
    for out in np.unique(table.sets):
        others = [each.kept(left_out_of(each, out)) for n, each in tables.items() if n != name]
        here = table.sets == out
        scores[here] = fitted(others, doubts).many(table.features[here])
    return scores


def left_out_of(table: Table, out: str) -> Picks:
    """Return which rows are of other sets than `out`; everyday prompts count as one set."""
    if out.startswith("everyday/"):
        return ~np.char.startswith(table.sets, "everyday/")
    return np.asarray(table.sets != out)


def ship(tables: Mapping[str, Table], *, far: Table) -> None:
    """Fit to every table and write the weights that ship."""
    every = list(tables.values())
    near = fitted(every)
    prompts = np.vstack([each.prompts for each in every])
    right = np.concatenate([each.right for each in every])
    near_by_prompt = fit_signed(PROMPT_NAMES, prompts, right, _PROMPT_SIGNS, penalty=30.0)
    known = fit_signed(PROMPT_NAMES, far.prompts, far.right, _PROMPT_SIGNS, penalty=30.0)
    far_by_prompt = raised(known, far.prompts, FAR_RIGHT)
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


def _rounded(scorer: Scorer) -> Scorer:
    weights = tuple(round(each, 5) for each in scorer.weights)
    return msgspec.structs.replace(scorer, weights=weights, bias=round(scorer.bias, 5))
